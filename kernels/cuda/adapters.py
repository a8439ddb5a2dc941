"""Low-rank adapters beside products, in Triton. A launch is the same whatever adapters the tokens have, so graphs may
replay it: places and matrices are found on the device.

    room[t] = x[t] @ down.T     float32 [num_tokens, splits, max_rank]
    y[t]   += room[t] @ up.T    summed in float32, over splits, too

Up to `_FEW` tokens have a program for each token and some ranks or results; several split a row of x, or they would be
too few to read at the memory's rate. Of more tokens, tiles go through the adapters that are in them.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.adapters import Adaptation, LowRank, stacked, total_rank
from quire.kernels.linear import Linear

_FEW: Final = 256
# Of a program: tokens, ranks, numbers of a row of x, results.
_TOKENS: Final = 64
_RANKS: Final = 16
_CHUNK: Final = 256
_TILE_CHUNK: Final = 64
_RESULTS: Final = 128
# Programs that share a token's row of x.
_SPLITS: Final = 8


@triton.jit
def _down_row(  # type: ignore[no-untyped-def]
    x_ptr, places_ptr, down_ptr, ranks_ptr, room_ptr, x_stride, size, room_stride,
    splits: tl.constexpr, ranks: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    token, rank = tl.program_id(0).to(tl.int64), tl.program_id(1) * ranks + tl.arange(0, ranks)
    split = tl.program_id(2)
    place = tl.load(places_ptr + token)
    if place >= 0:  # noqa: SIM102  what is no place has no ranks to load
        if tl.program_id(1) * ranks < tl.load(ranks_ptr + place):
            down = tl.load(down_ptr + place).to(tl.pointer_type(x_ptr.dtype.element_ty))
            sums = tl.zeros([ranks, chunk], tl.float32)
            for start in range(split * chunk, size, splits * chunk):
                at = start + tl.arange(0, chunk)
                x = tl.load(x_ptr + token * x_stride + at, mask=at < size, other=0.0).to(tl.float32)
                matrix = tl.load(down + rank[:, None] * size + at[None, :], mask=at[None, :] < size, other=0.0)
                sums += matrix.to(tl.float32) * x[None, :]
            tl.store(room_ptr + (token * splits + split) * room_stride + rank, tl.sum(sums, 1))


@triton.jit
def _up_row(  # type: ignore[no-untyped-def]
    room_ptr, places_ptr, up_ptr, ranks_ptr, y_ptr, room_stride, y_stride, out,
    splits: tl.constexpr, ranks: tl.constexpr, results: tl.constexpr,
):  # fmt: skip
    token, result = tl.program_id(0).to(tl.int64), tl.program_id(1) * results + tl.arange(0, results)
    place = tl.load(places_ptr + token)
    if place >= 0:
        num_ranks = tl.load(ranks_ptr + place)
        if num_ranks > 0:
            up = tl.load(up_ptr + place).to(tl.pointer_type(y_ptr.dtype.element_ty))
            inside = result < out
            sums = tl.zeros([results, ranks], tl.float32)
            for start in range(0, num_ranks, ranks):
                rank = start + tl.arange(0, ranks)
                room = tl.zeros([ranks], tl.float32)
                for split in range(splits):
                    room += tl.load(room_ptr + (token * splits + split) * room_stride + rank)
                matrix = tl.load(up + result[:, None] * num_ranks + rank[None, :], mask=inside[:, None], other=0.0)
                sums += matrix.to(tl.float32) * room[None, :]
            y = tl.load(y_ptr + token * y_stride + result, mask=inside, other=0.0).to(tl.float32)
            tl.store(y_ptr + token * y_stride + result, (y + tl.sum(sums, 1)).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _down_tile(  # type: ignore[no-untyped-def]
    x_ptr, places_ptr, down_ptr, ranks_ptr, room_ptr, num_tokens, x_stride, size, room_stride,
    tokens: tl.constexpr, ranks: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    token, rank = tl.program_id(0) * tokens + tl.arange(0, tokens), tl.program_id(1) * ranks + tl.arange(0, ranks)
    places = tl.load(places_ptr + token, mask=token < num_tokens, other=-1)
    place = tl.max(places, 0)
    token = token.to(tl.int64)
    while place >= 0:
        own = places == place
        if tl.program_id(1) * ranks < tl.load(ranks_ptr + place):
            down = tl.load(down_ptr + place).to(tl.pointer_type(x_ptr.dtype.element_ty))
            sums = tl.zeros([tokens, ranks], tl.float32)
            for start in range(0, size, chunk):
                at = start + tl.arange(0, chunk)
                held = own[:, None] & (at[None, :] < size)
                x = tl.load(x_ptr + token[:, None] * x_stride + at[None, :], mask=held, other=0.0)
                matrix = tl.load(down + rank[None, :] * size + at[:, None], mask=at[:, None] < size, other=0.0)
                sums = tl.dot(x, matrix, sums, input_precision="ieee")
            to = room_ptr + token[:, None] * room_stride + rank[None, :]
            tl.store(to, sums, mask=own[:, None])
        places = tl.where(own, -1, places)
        place = tl.max(places, 0)


@triton.jit
def _up_tile(  # type: ignore[no-untyped-def]
    room_ptr, places_ptr, up_ptr, ranks_ptr, y_ptr, num_tokens, room_stride, y_stride, out,
    tokens: tl.constexpr, ranks: tl.constexpr, results: tl.constexpr,
):  # fmt: skip
    token, result = tl.program_id(0) * tokens + tl.arange(0, tokens), tl.program_id(1) * results + tl.arange(0, results)
    places = tl.load(places_ptr + token, mask=token < num_tokens, other=-1)
    place = tl.max(places, 0)
    token = token.to(tl.int64)
    while place >= 0:
        own = places == place
        num_ranks = tl.load(ranks_ptr + place)
        if num_ranks > 0:
            up = tl.load(up_ptr + place).to(tl.pointer_type(y_ptr.dtype.element_ty))
            sums = tl.zeros([tokens, results], tl.float32)
            for start in range(0, num_ranks, ranks):
                rank = start + tl.arange(0, ranks)
                room = tl.load(room_ptr + token[:, None] * room_stride + rank[None, :], mask=own[:, None], other=0.0)
                matrix = tl.load(
                    up + result[None, :] * num_ranks + rank[:, None], mask=result[None, :] < out, other=0.0
                )
                sums = tl.dot(room.to(matrix.dtype), matrix, sums, input_precision="ieee")
            at, held = y_ptr + token[:, None] * y_stride + result[None, :], own[:, None] & (result[None, :] < out)
            y = tl.load(at, mask=held, other=0.0).to(tl.float32)
            tl.store(at, (y + sums).to(y_ptr.dtype.element_ty), mask=held)
        places = tl.where(own, -1, places)
        place = tl.max(places, 0)


class CudaAdaptedLinear:
    """Implements `AdaptedLinear`.

    Args:
        linear: whose results are new tensors.
    """

    def __init__(self, linear: Linear, adaptation: Adaptation) -> None:
        self.linear, self._rows, self._out = linear, adaptation.rows, adaptation.out
        device, rows = adaptation.device, adaptation.rows
        # Of all parts of an adapter together.
        self._max_rank = -(-rows.max_rank * adaptation.num_parts // _RANKS) * _RANKS
        # Addresses of the matrices, and how many ranks they have, of each place; none: the adapter adds nothing here.
        self._downs, self._ups = (torch.zeros(rows.num_places, dtype=torch.int64, device=device) for _ in range(2))
        self._ranks = torch.zeros(rows.num_places, dtype=torch.int32, device=device)
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        y, places = self.linear(x), self._rows.of(x)
        if places is not None and len(x):
            self._add(x, places, y)
        return y

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        """As `AdaptedLinear.adapt`."""
        if not parts:
            self._ranks[place] = 0
            self._tensors.pop(place, None)
            return
        rank = -(-total_rank(parts) // _RANKS) * _RANKS
        down, up = stacked(parts, self._out, rank)
        self._tensors[place] = down, up
        self._downs[place], self._ups[place], self._ranks[place] = down.data_ptr(), up.data_ptr(), rank

    def _add(self, x: Tensor, places: Tensor, y: Tensor) -> None:
        num_tokens, size, out = len(x), x.shape[1], y.shape[1]
        splits = _SPLITS if num_tokens <= _FEW else 1
        room = torch.empty(num_tokens * splits, self._max_rank, dtype=torch.float32, device=x.device)
        num_ranks, num_results = self._max_rank // _RANKS, triton.cdiv(out, _RESULTS)
        down: tuple[Any, ...] = (x, places, self._downs, self._ranks, room)
        up: tuple[Any, ...] = (room, places, self._ups, self._ranks, y)
        if num_tokens <= _FEW:
            chunk = min(_CHUNK, triton.next_power_of_2(size))
            strides = x.stride(0), size, room.stride(0)
            _down_row[num_tokens, num_ranks, splits](*down, *strides, splits, _RANKS, chunk)
            _up_row[num_tokens, num_results](*up, room.stride(0), y.stride(0), out, splits, _RANKS, _RESULTS)
            return
        tiles = triton.cdiv(num_tokens, _TOKENS)
        _down_tile[tiles, num_ranks](*down, num_tokens, x.stride(0), size, room.stride(0), _TOKENS, _RANKS, _TILE_CHUNK)
        _up_tile[tiles, num_results](*up, num_tokens, room.stride(0), y.stride(0), out, _TOKENS, _RANKS, _RESULTS)
