"""Root mean square normalisation (Zhang and Sennrich, 2019) over the last dimension.

    x, residual     [..., size]
    weight          [size], of the dtype of x, or float32: then only the result is rounded

The fused form first adds the residual and returns the sum too: it is the next residual.

The reference takes the mean in float32 whatever the dtype of x.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normed = wide * scale
    return normed.to(x.dtype) * weight if weight.dtype == x.dtype else (normed * weight).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x + residual, and x + residual."""
    total = x + residual
    return rms_norm(total, weight, eps), total
