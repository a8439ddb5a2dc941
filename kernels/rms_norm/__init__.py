"""Root mean square normalisation (Zhang and Sennrich, 2019) over the last dimension.

    x, residual     [..., size]
    weight          [size]

The fused form first adds the residual and returns the sum too: it is the next residual.
"""
