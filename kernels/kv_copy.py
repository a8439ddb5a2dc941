"""Copy whole blocks inside the paged cache, in every layer.

kv                      [num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]
sources, destinations   [n] int64 block ids; all sources are read before any destination is written
"""

from torch import Tensor


def kv_copy(kv: Tensor, sources: Tensor, destinations: Tensor) -> None:
    """Copy block sources[i] over block destinations[i], for all i at once."""
    kv[:, destinations] = kv[:, sources]
