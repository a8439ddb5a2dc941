"""In C++, one call per step; works in buffers that stay."""

import ctypes
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from quire.kernels.decoder_blocks import Block, BlockShape, FusedBlocks
from quire.kernels.native.adapters import Rows
from quire.kernels.native.attention import NativeAttention
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.linear import Matrix, NativeLinear

_Part = TypeVar("_Part")
_POINTER: Final = ctypes.c_void_p
_LINEARS: Final = ("qkv", "output", "gate_up", "down")
_LINE: Final = 64
_NORMS: Final = ("q_norm", "k_norm", "mlp_norm", "next_norm")


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, _POINTER) for name in names]


class _Block(ctypes.Structure):
    _fields_ = [*((name, Matrix) for name in _LINEARS), *_pointers(*_NORMS, "attention", "layer_kv")]


class _Sizes(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_long) for name in (
            "num_blocks", "hidden", "num_qo_heads", "num_kv_heads", "head_dim", "gated_stride",
        )],
        ("is_bf16", ctypes.c_int),
        ("eps", ctypes.c_float),
    ]  # fmt: skip


class _Buffers(ctypes.Structure):
    _fields_ = _pointers("x", "residual", "qkv", "q", "k", "attended", "gated")


class NativeDecoderBlocks:
    """Implements `FusedBlocks`."""

    def __init__(self, library: NativeLibrary, shape: BlockShape, blocks: Sequence[Block]) -> None:
        """
        Raises:
            TypeError: a linear layer is not a `NativeLinear`, or an attention not a `NativeAttention`.
        """
        first = blocks[0]
        self._library = library
        self._keep_alive = tuple(blocks)
        self._shape = shape
        self._attention = next(block.attention for block in blocks if isinstance(block.attention, NativeAttention))
        self._dtype = first.mlp_norm.dtype
        qkv, gate_up = _native(first.qkv, NativeLinear), _native(first.gate_up, NativeLinear)
        q_size, k_size = shape.num_qo_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        gated_stride = _stride(gate_up.matrix.outputs, self._dtype)
        self._sizes = _Sizes(
            len(blocks), qkv.matrix.depth, shape.num_qo_heads, shape.num_kv_heads, shape.head_dim, gated_stride,
            self._dtype == torch.bfloat16, shape.rms_norm_eps,
        )  # fmt: skip
        self._widths = (qkv.matrix.outputs, q_size, k_size, q_size, gated_stride)
        self._blocks = (_Block * len(blocks))(*(_Block(**_fields(block)) for block in blocks))
        linears = [_native(getattr(block, name), NativeLinear) for block in blocks for name in _LINEARS]
        self._adapters = [linear.adapters for linear in linears if linear.adapters is not None]
        self._room = [torch.empty(0)] * len(self._widths)
        self._capacity = 0

    def __call__(self, x: Tensor, residual: Tensor, rows: Tensor | None) -> Tensor:
        num_tokens = x.shape[0]
        num_rows = num_tokens if rows is None else len(rows)
        if num_tokens > self._capacity:
            self._room = [torch.empty(num_tokens * width, dtype=self._dtype) for width in self._widths]
            self._capacity = num_tokens
        buffers = _Buffers(x.data_ptr(), residual.data_ptr(), *(room.data_ptr() for room in self._room))
        batch = self._attention.batch
        self._library.decoder_blocks(
            self._library.pool,
            ctypes.byref(self._blocks),
            ctypes.byref(self._sizes),
            ctypes.byref(buffers),
            self._shape.cos_sin.data_ptr(),
            batch.positions.data_ptr(),
            batch.slot_mapping.data_ptr(),
            num_tokens,
            None if rows is None else rows.data_ptr(),
            num_rows,
            *self._adapted(),
        )
        return x[:num_rows]

    def _adapted(self) -> tuple[Any, Any]:
        """Adapters of all tokens, and of the rows that are wanted, for C++."""
        rows = self._adapters[0].rows if self._adapters else None
        if rows is None or rows.places is None or rows.kept is None:
            return None, None
        stride = max(adapters.stride for adapters in self._adapters)
        if not stride:
            return None, None
        return ctypes.byref(Rows.of(rows.places, stride)), ctypes.byref(Rows.of(rows.kept, stride))


def fuse(library: NativeLibrary, shape: BlockShape, blocks: Sequence[Block]) -> FusedBlocks | None:
    """A `BlockFuser`: None unless everything in the blocks is native."""
    linears = [getattr(block, name) for block in blocks for name in _LINEARS]
    if not all(isinstance(linear, NativeLinear) for linear in linears):
        return None
    if not all(isinstance(block.attention, NativeAttention) for block in blocks):
        return None
    return NativeDecoderBlocks(library, shape, blocks)


def _stride(columns: int, dtype: torch.dtype) -> int:
    """Stride of rows, in elements: an odd number of cache lines, or the lines of a column would meet in few sets."""
    lines = -(-columns * dtype.itemsize // _LINE) | 1
    return lines * _LINE // dtype.itemsize


def _native(part: object, kind: type[_Part]) -> _Part:
    if not isinstance(part, kind):
        raise TypeError(f"must be a {kind.__name__}, got {type(part).__name__}")
    return part


def _fields(block: Block) -> dict[str, Any]:
    matrices = {name: _native(getattr(block, name), NativeLinear).matrix for name in _LINEARS}
    tensors: dict[str, Tensor | None] = {name: getattr(block, name) for name in _NORMS} | {"layer_kv": block.layer_kv}
    pointers = {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
    return matrices | pointers | {"attention": _native(block.attention, NativeAttention).handle}
