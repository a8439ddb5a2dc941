"""Write keys and values of new tokens into one layer's paged cache.

layer_kv        [num_blocks, 2, block_size, num_kv_heads, head_dim], keys before values; [num_blocks, 1, ...] of latent
                attention, which has keys only
k, v            [num_tokens, num_kv_heads, head_dim], rounded to the cache's dtype; float8_e4m3fn, whose scale is 1,
                takes what is beyond its range as its greatest number, 448
slot_mapping    [num_tokens] int64, block * block_size + offset, all different
"""

import torch
from torch import Tensor


def kv_append(layer_kv: Tensor, k: Tensor, v: Tensor | None, slot_mapping: Tensor) -> None:
    """Write k and v, each [num_tokens, num_kv_heads, head_dim], to their places; no v into a latent cache."""
    block_size = layer_kv.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    layer_kv[blocks, 0, offsets] = _rounded(k, layer_kv.dtype)
    if v is not None:
        layer_kv[blocks, 1, offsets] = _rounded(v, layer_kv.dtype)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.itemsize < 2:
        # Conversion alone makes NaN of what is out of range, or not, as the version of PyTorch has it.
        limit = torch.finfo(dtype).max
        x = x.clamp(-limit, limit)
    return x.to(dtype)
