"""Write keys and values of new tokens into one layer's paged cache.

layer_kv        [num_blocks, 2, block_size, num_kv_heads, head_dim], keys before values
k, v            [num_tokens, num_kv_heads, head_dim], of the cache's dtype
slot_mapping    [num_tokens] int64, block * block_size + offset, all different
"""
