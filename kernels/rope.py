"""Rotary position embedding (Su et al., "RoFormer", 2021), in the half-split layout of Hugging Face models.

q, k        [num_tokens, num_heads, head_dim], rotated in place; may be views into a merged projection
cos_sin     [max_positions, head_dim] float32: cosines in the first half of a row, sines in the second
positions   [num_tokens] int64

The arithmetic is float32 whatever the dtype of q and k.
"""

import torch
from torch import Tensor


def rope(q: Tensor, k: Tensor, cos_sin: Tensor, positions: Tensor) -> None:
    """Rotate q and k, each [num_tokens, num_heads, head_dim], in place."""
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    for x in (q, k):
        first, second = x.float().chunk(2, dim=-1)
        x.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1))
