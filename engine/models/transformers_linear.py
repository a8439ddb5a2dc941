"""Linear layers of models that `transformers` computes, by our kernels: in codes, and with adapters."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from quire.engine.layers.build import Build
from quire.engine.layers.linear import Linear

# What chooses experts, as the library calls it: too few numbers to be worth codes, and too much hangs on them.
_ROUTERS: Final = ("gate", "router", "shared_expert_gate")


class LinearModule(nn.Module):
    """In place of the library's own: of [..., in], [..., out]."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self._linear = linear

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return self._linear(rows).view(*x.shape[:-1], -1)


def linear_layers(
    build: Build, outline: nn.Module, names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Linear]:
    """Layers of ours that take their weights from the checkpoint, by the names of the library's.

    Args:
        outline: of the library.
        names: of linear layers in it.
        shapes: of the tensors in the checkpoint. What goes by another name there the library has to arrange.
    """
    layers = {}
    for name in names:
        module: Any = outline.get_submodule(name)
        parent, _, leaf = name.rpartition(".")
        out, size, bias = module.out_features, module.in_features, module.bias is not None
        wanted = [*build.quantization.method(name).tensors(out, size), *(["bias"] if bias else [])]
        if all(f"{name}.{part}" in shapes for part in wanted):
            layers[name] = Linear(build.root.at(parent), {leaf: out}, size, bias=bias, is_exact=leaf in _ROUTERS)
    return layers


def stand_ins(build: Build, layers: Mapping[str, Linear]) -> dict[str, Tensor]:
    """What the library's own layers are loaded with before ours replace them: one number, again and again."""
    nothing, found = torch.zeros((), dtype=build.dtype, device=build.device), {}
    for name, linear in layers.items():
        found[f"{name}.weight"] = nothing.expand(linear.out, linear.size)
        if f"{name}.bias" in build.parameters:
            found[f"{name}.bias"] = nothing.expand(linear.out)
    return found
