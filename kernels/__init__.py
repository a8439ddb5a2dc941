"""Kernels: tensors in, tensors out. They know neither models nor requests, and import nothing else of Quire.

One folder per operation, whose docstring is the operation's contract; one file per backend in it. What a
model calls is a `KernelSuite`, and attention, which plans ahead of every step, an `AttentionBackend`.
"""
