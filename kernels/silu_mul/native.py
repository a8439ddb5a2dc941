"""In C++; the arithmetic is float32."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary


@dataclass(frozen=True, slots=True, eq=False)
class NativeSiluMul:
    """`silu_mul` of this package; gate_up is contiguous."""

    library: NativeLibrary

    def __call__(self, gate_up: Tensor) -> Tensor:
        num_tokens, double = gate_up.shape
        out = torch.empty((num_tokens, double // 2), dtype=gate_up.dtype)
        is_bf16 = gate_up.dtype == torch.bfloat16
        self.library.silu_mul(self.library.pool, is_bf16, gate_up.data_ptr(), out.data_ptr(), num_tokens, double // 2)
        return out
