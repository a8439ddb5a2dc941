"""Products with a matrix of the rows' own type, by cuBLAS."""

import torch
from torch import Tensor
from torch.nn import functional


def wide_product(x: Tensor, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """x @ weight.T + bias, [num_tokens, out].

    Results that are to be wider than the weight are never rounded to its type.

    Args:
        x: [num_tokens, in], of the weight's type.
        weight: [out, in].
    """
    if out_dtype == weight.dtype:
        return functional.linear(x, weight, bias)
    product = torch.mm(x, weight.T, out_dtype=out_dtype)
    return product if bias is None else product + bias
