"""Weights in panels, in C++."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quire.kernels.activation import Activation
from quire.kernels.adapters import AdapterRows, LowRank
from quire.kernels.coded_weight import CodedWeight, Weight, int8_parts
from quire.kernels.native.adapters import NativeAdapters, Rows
from quire.kernels.native.int4 import is_int4, packed_codes, scales_and_zeros
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.panels import PANEL, in_panels


class Matrix(ctypes.Structure):
    """`quire::Matrix` of api.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("packed", "scale", "zero", "bias", "adapters")],
        *[(name, ctypes.c_long) for name in ("columns", "depth", "outputs", "group")],
        ("gate", ctypes.c_int),
        *[(name, ctypes.c_float) for name in ("alpha", "limit")],
    ]


@dataclass(frozen=True, slots=True, eq=False)
class NativeLinear:
    """Implements `AdaptedLinear`; without `adapters`, `Linear`.

    Attributes:
        tensors: the matrix in panels, of the rows' type, int8, or two int4 to a byte; scales and zeros of codes; bias.
        matrix: all of it for C++.
        adapters: what is added to some rows; None: nothing ever is.
    """

    library: NativeLibrary
    tensors: tuple[Tensor | None, ...]
    matrix: Matrix
    out_dtype: torch.dtype
    adapters: NativeAdapters | None = None

    @classmethod
    def pack(
        cls, library: NativeLibrary, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype, *,
        activation: Activation | None = None,
    ) -> "NativeLinear":  # fmt: skip
        """`weight` is [out, in] on the CPU, float32 or bfloat16, which is the rows' type; `in` is even.
        Plain int8 and int4 codes stay as they are, others are widened. With an activation the layer is gated."""
        tensors: tuple[Tensor | None, ...]
        is_gated, dtype, depth = activation is not None, weight.dtype, weight.shape[1]
        outputs = weight.shape[0] // 2 if is_gated else weight.shape[0]
        wide = None if bias is None else in_panels(bias.float(), is_gated)
        if isinstance(weight, CodedWeight) and is_int4(weight):
            codes, group = packed_codes(weight, is_gated), weight.group
            columns = len(codes) * PANEL
            tensors = _kept(library, codes), *scales_and_zeros(weight, is_gated), wide
        else:
            rows, scales = int8_parts(weight)
            dense, group = in_panels(rows, is_gated), 0
            scale = None if scales is None else in_panels(scales.float(), is_gated)
            columns, packed = len(dense), library.arena.empty(dense.numel(), dense.dtype)
            is_bf16 = dtype == torch.bfloat16
            library.linear_pack(is_bf16, scale is not None, dense.data_ptr(), packed.data_ptr(), columns, depth)
            tensors = packed, scale, None, wide
        matrix = Matrix(*map(_address, tensors), None, columns, depth, outputs, group, *_gate(activation))
        return cls(library, tensors, matrix, out_dtype)

    def __call__(self, x: Tensor) -> Tensor:
        num_tokens = x.shape[0]
        y = torch.empty((num_tokens, self.matrix.outputs), dtype=self.out_dtype)
        rows = self._adapted_rows(x)
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
            None if rows is None else ctypes.byref(rows),
        )
        return y

    def with_adapters(self, rows: AdapterRows) -> "NativeLinear":
        """The same layer, which takes adapters."""
        is_gated = bool(self.matrix.gate)
        adapters = NativeAdapters(rows, self.matrix.outputs * (2 if is_gated else 1), is_gated)
        matrix = Matrix.from_buffer_copy(self.matrix)
        matrix.adapters = ctypes.addressof(adapters.table)
        return replace(self, matrix=matrix, adapters=adapters)

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        """As `AdaptedLinear.adapt`.

        Raises:
            ValueError: this layer takes no adapters.
        """
        if self.adapters is None:
            raise ValueError("this layer was made without adapters")
        self.adapters.adapt(place, parts)

    def _adapted_rows(self, x: Tensor) -> Rows | None:
        places = None if self.adapters is None else self.adapters.rows.of(x)
        if self.adapters is None or places is None or not self.adapters.stride:
            return None
        return Rows.of(places, self.adapters.stride)


def _kept(library: NativeLibrary, tensor: Tensor) -> Tensor:
    """What is read whole in every step, in huge pages."""
    kept = library.arena.empty(tensor.numel(), tensor.dtype)
    return kept.copy_(tensor.flatten())


def _gate(activation: Activation | None) -> tuple[int, float, float]:
    return (0, 0.0, 0.0) if activation is None else (activation.gate, activation.alpha, activation.limit)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
