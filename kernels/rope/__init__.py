"""Rotary position embedding (Su et al., "RoFormer", 2021), in the half-split layout of Hugging Face models.

q, k        [num_tokens, num_heads, head_dim], rotated in place; may be views into a merged projection
cos_sin     [max_positions, head_dim] float32: cosines in the first half of a row, sines in the second
positions   [num_tokens] int64
"""
