"""The gate of a SwiGLU block (Shazeer, "GLU Variants Improve Transformer", 2020).

gate_up     [num_tokens, 2 * size]: the gate in the first half of a row, what it gates in the second
"""
