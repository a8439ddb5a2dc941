"""Products with a constant matrix, which a backend may lay out anew.

weight      [out, in]
bias        [out] or None
x           [num_tokens, in], of the weight's dtype; rows contiguous
result      [num_tokens, out]
"""
