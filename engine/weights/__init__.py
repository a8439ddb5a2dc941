"""Weights: the tensors of a checkpoint, and their way into the layers of a model."""
