"""Codes of 8 bits, FP8 e4m3 or integers, with scales of the whole matrix, of rows, of groups or of square blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quire.engine.quantization.linear_method import Stored, num_groups
from quire.kernels.coded_weight import CodedWeight, Weight


@dataclass(frozen=True, slots=True)
class Scaled:
    """Implements `LinearMethod`.

    Attributes:
        code: as safetensors calls it.
        strategy: what has a scale of its own.
        scale_name: of the tensor of scales, which multiply the codes.
        group: columns of a group or block; 0: a row is one.
        block_rows: rows of a block.
        has_input_scale: whether there is a scale of activations, which are not rounded here.
    """

    code: Literal["F8_E4M3", "I8"]
    strategy: Literal["tensor", "channel", "group", "block"]
    scale_name: str = "weight_scale"
    group: int = 0
    block_rows: int = 0
    has_input_scale: bool = False

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        match self.strategy:
            case "tensor":
                shape: tuple[int, ...] = (1,)
            case "block":
                shape = (-(-out // self.block_rows), -(-size // self.group))
            case _:
                shape = (out, num_groups(size, self.group))
        found = {"weight": Stored((out, size), (self.code,)), self.scale_name: Stored(shape)}
        return found | ({"input_scale": Stored((1,))} if self.has_input_scale else {})

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        codes, scales = tensors["weight"], tensors[self.scale_name].float()
        out, size = codes.shape
        if self.strategy == "tensor":
            scales = scales.reshape(1, 1).expand(out, 1).contiguous()
        elif self.strategy == "block":
            scales = scales.repeat_interleave(self.block_rows, dim=0)[:out]
            if size % self.group:
                # The last block is narrower: the groups of a coded weight are not.
                columns = scales.repeat_interleave(self.group, dim=1)[:, :size]
                return (codes.float() * columns).to(dtype)
        return CodedWeight(codes, scales, dtype)
