"""Checkpoints in the formats of quantizers, and the same numbers as plain ones."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.checkpoints import edit_config, write_llama

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "initializer_range": 0.3}


@dataclass(frozen=True)
class Coded:
    """Tensors of one matrix by the last part of their names, and what they stand for."""

    tensors: dict[str, Tensor]
    dense: Tensor


Coder = Callable[[Tensor], Coded]


def rounded(weight: Tensor, bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(codes from 0, scales, zeros): int32 [out, in], float32 and int32 [out, groups]."""
    wide = weight.unflatten(1, (-1, group))
    half, most = 1 << (bits - 1), (1 << bits) - 1
    if symmetric:
        scales = wide.abs().amax(-1) / (half - 1)
        zeros = torch.full(scales.shape, half, dtype=torch.int32)
    else:
        low, high = wide.amin(-1).clamp(max=0), wide.amax(-1).clamp(min=0)
        scales = (high - low) / most
        zeros = (-low / scales).round().int().clamp(1, most)
    codes = (wide / scales[..., None]).round() + zeros[..., None]
    return codes.clamp(0, most).int().flatten(1), scales, zeros


def numbers(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    wide = codes.unflatten(1, (scales.shape[1], -1))
    return ((wide - zeros[..., None]) * scales[..., None]).flatten(1).float()


def packed(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Along the last dimension, into 32-bit words; number `order[i]` of a word is in its place i."""
    per_word = 32 // bits
    words = codes.unflatten(-1, (-1, per_word)).long()[..., list(order or range(per_word))]
    shifted = (words << (torch.arange(per_word) * bits)).sum(-1)
    return shifted.where(shifted < 1 << 31, shifted - (1 << 32)).int()


def compressed(bits: int, group: int, symmetric: bool) -> Coder:
    def code(weight: Tensor) -> Coded:
        codes, scales, zeros = rounded(weight, bits, group or weight.shape[1], symmetric)
        half = 1 << (bits - 1)
        tensors = {
            "weight_packed": pack_to_int32((codes - half).to(torch.int8), bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            offsets = (zeros - half).to(torch.int8)
            tensors["weight_zero_point"] = pack_to_int32(offsets, bits, packed_dim=0)
        return Coded(tensors, numbers(codes, scales, zeros))

    return code


def gptq(bits: int, group: int, *, shuffled: bool = False, offset: int = 1) -> Coder:
    def code(weight: Tensor) -> Coded:
        size = weight.shape[1]
        order = torch.randperm(size, generator=torch.Generator().manual_seed(size)) if shuffled else torch.arange(size)
        codes, scales, zeros = rounded(weight[:, order], bits, group, symmetric=False)
        back = order.argsort()
        tensors = {
            "qweight": packed(codes[:, back], bits).T.contiguous(),
            "qzeros": packed((zeros - offset).T.contiguous(), bits),
            "scales": scales.T.contiguous(),
            "g_idx": (torch.arange(size) // group)[back].int(),
        }
        return Coded(tensors, numbers(codes, scales, zeros)[:, back])

    return code


def awq(group: int) -> Coder:
    def code(weight: Tensor) -> Coded:
        codes, scales, zeros = rounded(weight, 4, group, symmetric=False)
        tensors = {
            "qweight": packed(codes.T.contiguous(), 4, AWQ_ORDER),
            "qzeros": packed(zeros.T.contiguous(), 4, AWQ_ORDER),
            "scales": scales.T.contiguous(),
        }
        return Coded(tensors, numbers(codes, scales, zeros))

    return code


def eight_bits(dtype: torch.dtype, strategy: str, name: str = "weight_scale", block: int = 16) -> Coder:
    """Codes of fp8 or int8, with scales of the whole, of rows or of square blocks."""

    def code(weight: Tensor) -> Coded:
        largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
        if strategy == "tensor":
            scales = weight.abs().amax().view(1) / largest
            wide = scales.expand(*weight.shape)
        elif strategy == "channel":
            scales = weight.abs().amax(1, keepdim=True) / largest
            wide = scales.expand(*weight.shape)
        else:
            blocks = [-(-size // block) for size in weight.shape]
            room = weight.new_zeros([count * block for count in blocks])
            room[: weight.shape[0], : weight.shape[1]] = weight.abs()
            scales = room.unflatten(1, (-1, block)).unflatten(0, (-1, block)).amax((1, 3)) / largest
            wide = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)[: weight.shape[0], : weight.shape[1]]
        codes = (weight / wide).round() if dtype == torch.int8 else weight / wide
        codes = codes.clamp(-largest, largest).to(dtype)
        tensors = {"weight": codes, name: scales}
        if strategy == "tensor":
            tensors["input_scale"] = torch.ones(1)
        return Coded(tensors, codes.float() * wide)

    return code


def write_both(folder: Path, code: Coder, config: dict[str, Any], **settings: Any) -> tuple[Path, Path]:
    """The quantized checkpoint of a tiny Llama, and the plain one of the same numbers."""
    folders = folder / "coded", folder / "plain"
    for each in folders:
        write_llama(each, **(SIZES | settings))
    coded, plain = (load_file(each / "model.safetensors") for each in folders)
    for name in [name for name in coded if name.endswith("_proj.weight")]:
        made = code(coded.pop(name))
        coded |= {name.removesuffix("weight") + part: tensor.contiguous() for part, tensor in made.tensors.items()}
        plain[name] = made.dense.contiguous()
    save_file(coded, folders[0] / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, folders[1] / "model.safetensors", metadata={"format": "pt"})
    edit_config(folders[0], quantization_config=config)
    return folders


def compressed_config(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """As compressed-tensors writes it."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    config: dict[str, Any] = {
        "quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip
    return json.loads(json.dumps(config))  # type: ignore[no-any-return]
