"""What the C++ kernels share: vectors, tiles of matrix products, threads; and how they are compiled and called.

The kernels themselves are in `csrc`. All of them are one library with a plain C interface. A wheel may carry it
for every level of instructions; otherwise it is compiled at first use for the processor at hand.
"""
