"""Kernels: tensors in, tensors out. They know neither models nor requests, and import nothing else of Quire.

An operation is a module here, which holds its contract and the reference in PyTorch. Each other backend is a folder
with a module of the same name for every operation that it has. There are `native` for CPUs, whose C++ is in `csrc`, and
`cuda`. What a model calls is a `KernelSuite`, and attention, which plans ahead of every step, an `AttentionBackend`.
`registry` lists the backends, which declare what they need and can do.
"""
