"""Low-rank adapters beside products, in C++; csrc/adapters.h says how they are laid out."""

import ctypes
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from quire.kernels.adapters import AdapterRows, LowRank, stacked, total_rank
from quire.kernels.native.panels import PANEL, in_panels

_RANKS: Final = 16  # `kRanks` in adapters.h


class Adapter(ctypes.Structure):
    """`quire::Adapter` of api.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("down", "up", "first")],
        *[(name, ctypes.c_long) for name in ("rank", "count", "shift")],
    ]


class Rows(ctypes.Structure):
    """`quire::AdapterRows` of api.h."""

    _fields_ = [("places", ctypes.c_void_p), ("room", ctypes.c_void_p), ("stride", ctypes.c_long)]

    @classmethod
    def of(cls, places: Tensor, stride: int) -> "Rows":
        """Of rows with these places, with room of so many floats for each."""
        room = torch.empty(len(places), stride)
        rows = cls(places.data_ptr(), room.data_ptr(), stride)
        rows.keep_alive = places, room
        return rows


class NativeAdapters:
    """The adapters of one product.

    Args:
        rows: of the model.
        out: rows of the product's matrix.
        is_gated: the second half of them is gated by the first.

    Attributes:
        table: one for each place, for C++.
        stride: floats of a row's room, for the adapter with the highest rank so far.
    """

    def __init__(self, rows: AdapterRows, out: int, is_gated: bool) -> None:
        self.rows, self.stride = rows, 0
        self.table = (Adapter * rows.num_places)()
        self._out, self._is_gated = out, is_gated
        self._tensors: dict[int, tuple[Tensor, ...]] = {}

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        """As `AdaptedLinear.adapt`."""
        if not parts:
            self.table[place] = Adapter()
            self._tensors.pop(place, None)
            return
        parts = sorted(parts, key=lambda part: part.first)
        # The two parts of a gated layer lie in the halves of all panels.
        shift = len(parts[0].down) if self._is_gated and len(parts) == 2 else 0
        first, count = self._ranges(parts, shift)
        rank = -(-max(total_rank(parts), shift + count) // _RANKS) * _RANKS
        down, up = stacked(parts, self._out, rank)
        first = first.clamp(max=rank - shift - count)
        tensors = _interleaved(down), _gathered(in_panels(up, self._is_gated), first, count, shift), first.int()
        self.table[place] = Adapter(*(tensor.data_ptr() for tensor in tensors), rank, count, shift)
        self._tensors[place] = tensors
        self.stride = max(self.stride, rank)

    def _ranges(self, parts: Sequence[LowRank], shift: int) -> tuple[Tensor, int]:
        """The first rank of each panel's columns, int64 [num_panels], and how many they have at most."""
        begins, ends = torch.full((self._out,), total_rank(parts)), torch.zeros(self._out, dtype=torch.int64)
        begin = 0
        for part in parts:
            rows = slice(part.first, part.first + len(part.up))
            begins[rows], ends[rows] = begin, begin + len(part.down)
            begin += len(part.down)
        halves = torch.arange(PANEL) // (PANEL // 2) * shift
        lowest = (_filled(begins, total_rank(parts), self._is_gated) - halves).amin(1)
        return lowest, int((_filled(ends, 0, self._is_gated) - halves).amax(1).sub(lowest).amax().clamp_min(1))


def _filled(ranks: Tensor, fill: int, is_gated: bool) -> Tensor:
    """In the order of panels, [num_panels, PANEL]; what fills up the last one has `fill`."""
    panels = in_panels(torch.stack((ranks, torch.ones_like(ranks)), 1), is_gated)
    return torch.where(panels[:, 1] == 1, panels[:, 0], fill).view(-1, PANEL)


def _interleaved(down: Tensor) -> Tensor:
    """[depth / kPack][rank][kPack]."""
    pack = 2 if down.dtype == torch.bfloat16 else 1
    return down.T.reshape(-1, pack, len(down)).transpose(1, 2).contiguous()


def _gathered(up: Tensor, first: Tensor, count: int, shift: int) -> Tensor:
    """[panel][count][PANEL] of [columns, ranks]."""
    ranks = first[:, None, None] + torch.arange(count)[:, None] + torch.arange(PANEL) // (PANEL // 2) * shift
    columns = torch.arange(len(up)).view(-1, 1, PANEL)
    return up[columns, ranks].contiguous()
