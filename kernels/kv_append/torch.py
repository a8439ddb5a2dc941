"""Reference in PyTorch."""

from torch import Tensor


def kv_append(layer_kv: Tensor, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
    """Write k and v, each [num_tokens, num_kv_heads, head_dim], to their places in `layer_kv`."""
    block_size = layer_kv.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    layer_kv[blocks, 0, offsets] = k
    layer_kv[blocks, 1, offsets] = v
