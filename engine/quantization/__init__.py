"""Formats of quantized checkpoints: which tensors make up a matrix, and what numbers they stand for."""
