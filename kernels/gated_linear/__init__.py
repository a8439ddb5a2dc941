"""The first half of a SwiGLU network (Shazeer, "GLU Variants Improve Transformer", 2020): silu(gate) * up.

weight      [2 * size, in]: the rows of the gate, then of what it gates; merged, so that both are one product
bias        [2 * size] or None
x           [num_tokens, in]
result      [num_tokens, size]
"""
