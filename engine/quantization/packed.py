"""Integers of 4 or 8 bits, several in one 32-bit word, with a scale and a zero for every group of columns.

Three layouts are in use. compressed-tensors packs along a row, GPTQ (https://arxiv.org/abs/2210.17323) along a column,
AWQ (https://arxiv.org/abs/2306.00978) along a row of the transposed matrix, in an order of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.quantization.linear_method import Stored, num_groups
from quire.kernels.coded_weight import CodedWeight, Weight

_WORD: Final = 32
_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class CompressedPacked:
    """Implements `LinearMethod`: "pack-quantized" of compressed-tensors.

    Attributes:
        bits: 4 or 8.
        group: columns of a group; 0: a row is one.
        is_symmetric: there are no zeros.
    """

    bits: int
    group: int
    is_symmetric: bool

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        groups = num_groups(size, self.group)
        per_word = _WORD // self.bits
        found = {
            "weight_packed": Stored((out, -(-size // per_word)), ("I32",)),
            "weight_scale": Stored((out, groups)),
            "weight_shape": Stored((2,), ("I64", "I32")),
        }
        zeros = {"weight_zero_point": Stored((-(-out // per_word), groups), ("I32",))}
        return found if self.is_symmetric else found | zeros

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        words, scales, half = tensors["weight_packed"], tensors["weight_scale"].float(), 1 << (self.bits - 1)
        out, size = tensors["weight_shape"].tolist()
        if (out, -(-size * self.bits // _WORD)) != tuple(words.shape):
            raise StartupError(f"weight_shape: must be that of {tuple(words.shape)} words, got {out}, {size}")
        codes = unpacked(words, self.bits)[:, :size] - half
        zeros = None
        if not self.is_symmetric:
            zeros = unpacked(tensors["weight_zero_point"].T, self.bits).T[: len(scales)].float() - half
        return CodedWeight(codes.to(torch.int8), scales, dtype, zeros, self.bits)


@dataclass(frozen=True, slots=True)
class Gptq:
    """Implements `LinearMethod`.

    Attributes:
        zero_offset: what is added to the zeros that are stored: 1, or 0 in the second version of the format.
    """

    bits: int
    group: int
    zero_offset: int

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        groups, per_word = num_groups(size, self.group), _WORD // self.bits
        return {
            "qweight": Stored((size // per_word, out), ("I32",)),
            "qzeros": Stored((groups, out // per_word), ("I32",)),
            "scales": Stored((groups, out)),
            "g_idx": Stored((size,), ("I32",)),
        }

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        half = 1 << (self.bits - 1)
        codes = unpacked(tensors["qweight"].T, self.bits)
        zeros = unpacked(tensors["qzeros"], self.bits).T.float() + self.zero_offset
        scales = tensors["scales"].T.float()
        group_of = tensors["g_idx"].long()
        if not 0 <= int(group_of.min()) <= int(group_of.max()) < scales.shape[1]:
            raise StartupError(f"g_idx: must be below {scales.shape[1]}, the groups that there are, got others")
        regular = torch.arange(len(group_of), device=group_of.device) // (len(group_of) // scales.shape[1])
        if not torch.equal(group_of, regular):
            # Columns that were coded in order of activation belong to groups here and there.
            return ((codes.float() - zeros[:, group_of]) * scales[:, group_of]).to(dtype)
        return CodedWeight((codes - half).to(torch.int8), scales.contiguous(), dtype, zeros - half, self.bits)


@dataclass(frozen=True, slots=True)
class Awq:
    """Implements `LinearMethod`: the layout "gemm"."""

    group: int

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        groups = num_groups(size, self.group)
        words = out // len(_AWQ_ORDER)
        return {
            "qweight": Stored((size, words), ("I32",)),
            "qzeros": Stored((groups, words), ("I32",)),
            "scales": Stored((groups, out)),
        }

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        bits, half = 4, 8
        codes = unpacked(tensors["qweight"], bits, _AWQ_ORDER).T - half
        zeros = unpacked(tensors["qzeros"], bits, _AWQ_ORDER).T.float() - half
        scales = tensors["scales"].T.float().contiguous()
        return CodedWeight(codes.to(torch.int8).contiguous(), scales, dtype, zeros.contiguous(), bits)


def unpacked(words: Tensor, bits: int, order: Sequence[int] | None = None) -> Tensor:
    """int16 [rows, columns * 32 / bits] of int32 [rows, columns]; the lowest bits of a word first.

    Args:
        order: place in a word of each number.
    """
    places = range(_WORD // bits) if order is None else order
    shifts = torch.tensor([place * bits for place in places], dtype=torch.int32, device=words.device)
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).to(torch.int16).flatten(1)
