"""Write keys and values of new tokens into one layer's paged cache.

layer_kv        [num_blocks, 2, block_size, num_kv_heads, head_dim], keys before values
k, v            [num_tokens, num_kv_heads, head_dim], rounded to the cache's dtype; float8_e4m3fn, whose scale is 1,
                takes what is beyond its range as its greatest number, 448
slot_mapping    [num_tokens] int64, block * block_size + offset, all different
"""
