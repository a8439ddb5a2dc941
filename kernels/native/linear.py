"""Weights in panels, in C++."""

import ctypes
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quire.kernels.int8_linear import quantized
from quire.kernels.native.library import NativeLibrary

PANEL: Final = 32
"""Columns that are packed together; `kPanel` in tile.h."""


class Matrix(ctypes.Structure):
    """`quire::Matrix` of api.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("packed", "scale", "bias")],
        *[(name, ctypes.c_long) for name in ("columns", "depth", "outputs")],
        ("is_gated", ctypes.c_int),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class NativeLinear:
    """Implements `Linear`.

    Attributes:
        packed: the matrix in panels, of the rows' type, or int8.
        scale: float32 [out], where `packed` is int8.
        bias: float32 [out] or None.
        matrix: all of it for C++.
    """

    library: NativeLibrary
    packed: Tensor
    scale: Tensor | None
    bias: Tensor | None
    matrix: Matrix
    out_dtype: torch.dtype

    @classmethod
    def pack(
        cls, library: NativeLibrary, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype, *,
        int8: bool = False, is_gated: bool = False,
    ) -> "NativeLinear":  # fmt: skip
        """`weight` is [out, in] on the CPU, float32 or bfloat16, which is the rows' type; `in` is even."""
        dense, scale = quantized(weight) if int8 else (weight, None)
        outputs = len(weight) // 2 if is_gated else len(weight)
        dense = _in_panels(dense, is_gated)
        scale, wide = (None if part is None else _in_panels(part.float(), is_gated) for part in (scale, bias))
        columns, depth = dense.shape
        packed = library.arena.empty(columns * depth, dense.dtype)
        is_bf16 = weight.dtype == torch.bfloat16
        library.linear_pack(is_bf16, int8, dense.data_ptr(), packed.data_ptr(), columns, depth)
        matrix = Matrix(packed.data_ptr(), _address(scale), _address(wide), columns, depth, outputs, is_gated)
        return cls(library, packed, scale, wide, matrix, out_dtype)

    def __call__(self, x: Tensor) -> Tensor:
        num_tokens = x.shape[0]
        y = torch.empty((num_tokens, self.matrix.outputs), dtype=self.out_dtype)
        self.library.linear(
            self.library.pool,
            x.dtype == torch.bfloat16,
            self.out_dtype == torch.bfloat16,
            x.data_ptr(),
            x.stride(0),
            ctypes.byref(self.matrix),
            y.data_ptr(),
            self.matrix.outputs,
            num_tokens,
        )
        return y


def _in_panels(rows: Tensor, is_gated: bool) -> Tensor:
    """Filled up with zeros to whole panels; of a gated layer's rows, every panel gets gates and what they gate."""
    num_parts, rest = 2 if is_gated else 1, rows.shape[1:]
    parts = rows.view(num_parts, -1, *rest)
    width = PANEL // num_parts
    missing = parts.new_zeros(num_parts, -parts.shape[1] % width, *rest)
    filled = torch.cat((parts, missing), dim=1).view(num_parts, -1, width, *rest)
    return filled.transpose(0, 1).reshape(-1, *rest).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
