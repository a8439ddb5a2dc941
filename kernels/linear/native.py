"""Weights in panels, in C++."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary

PANEL: Final = 32
"""Columns that are packed together; `kPanel` in tile.h."""


@dataclass(frozen=True, slots=True, eq=False)
class NativeLinear:
    """Implements `Linear`. `packed` is the matrix in panels; the bias is float32."""

    library: NativeLibrary
    packed: Tensor
    bias: Tensor | None
    in_features: int
    out_features: int
    out_dtype: torch.dtype

    @classmethod
    def pack(
        cls, library: NativeLibrary, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype
    ) -> "NativeLinear":
        """`weight` is [out, in] on the CPU, float32 or bfloat16; `in` is even."""
        out_features, in_features = weight.shape
        packed = torch.empty(-(-out_features // PANEL) * PANEL * in_features, dtype=weight.dtype)
        is_bf16 = weight.dtype == torch.bfloat16
        dense = weight.contiguous()
        library.linear_pack(is_bf16, dense.data_ptr(), packed.data_ptr(), out_features, in_features)
        wide = None if bias is None else bias.float()
        return cls(library, packed, wide, in_features, out_features, out_dtype)

    def __call__(self, x: Tensor) -> Tensor:
        num_tokens = x.shape[0]
        y = torch.empty((num_tokens, self.out_features), dtype=self.out_dtype)
        self.library.linear(
            self.library.pool,
            x.dtype == torch.bfloat16,
            self.out_dtype == torch.bfloat16,
            x.data_ptr(),
            self.packed.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            y.data_ptr(),
            num_tokens,
            self.out_features,
            self.in_features,
        )
        return y
