"""What the C++ kernels share: vectors, tiles of matrix products, threads; and how they are compiled and called.

The kernels themselves are in `csrc`. All of them are one library with a plain C interface, compiled at first use for
the processor at hand.
"""
