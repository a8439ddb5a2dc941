"""Copy whole blocks inside the paged cache, in every layer.

kv                      [num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]
sources, destinations   [n] int64 block ids; all sources are read before any destination is written
"""
