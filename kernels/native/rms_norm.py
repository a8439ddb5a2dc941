"""In C++; the arithmetic is float32 throughout, only results are rounded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary


@dataclass(frozen=True, slots=True, eq=False)
class NativeRmsNorm:
    """The functions of `quire.kernels.rms_norm`; x is [tokens, size], or [tokens, heads, size] with any
    distance between tokens."""

    library: NativeLibrary

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        self._call(x, None, weight, out, None, eps)
        return out

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        out, total = torch.empty_like(x), torch.empty_like(x)
        self._call(x, residual, weight, out, total, eps)
        return out, total

    def _call(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, total: Tensor | None, eps: float
    ) -> None:
        self.library.rms_norm(
            self.library.pool,
            x.dtype == torch.bfloat16,
            weight.dtype == torch.bfloat16,
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            None if total is None else total.data_ptr(),
            x.shape[0],
            x.shape[1] if x.ndim == 3 else 1,
            x.shape[-1],
            x.stride(0),
            eps,
        )
