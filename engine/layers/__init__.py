"""Layers: what models are composed of. A layer makes its parameters known, and computes with a suite of kernels."""
