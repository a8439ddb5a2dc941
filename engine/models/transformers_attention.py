"""Attention as `transformers` calls it, over our paged attention.

The library calls attention through an interface. What it is for a layer comes from a trial on the meta device, which
computes shapes alone. The trial shows, too, which linear layers are called as such.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from quire.engine.api.errors import StartupError
from quire.engine.layers.attention import Attention, AttentionShape, window_within

INTERFACE: Final = "quire"
"""Name by which the library knows our attention, once `register` was called."""

_TRIAL_TOKENS: Final = 2


class PagedLayer:
    """Attention of one layer: of [1, heads, num_tokens, head_dim], [1, num_tokens, heads, value_dim]."""

    def __init__(self, attention: Attention, value_dim: int) -> None:
        self._attention, self._value_dim = attention, value_dim
        self._missing = attention.shape.head_dim - value_dim

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Mapping[str, Any]) -> Tensor:
        if self._missing:
            value = nn.functional.pad(value, (0, self._missing))
        sinks = options.get("s_aux")
        self._attention.sinks = None if sinks is None else sinks.float()
        q, k, v = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))
        return self._attention(q, k, v)[None, ..., : self._value_dim]


@dataclass(frozen=True, slots=True)
class Trial:
    """One layer's attention, as the library called it."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value_dim: int
    options: Mapping[str, Any]

    def shape(self, max_model_len: int) -> AttentionShape:
        options = self.options
        return AttentionShape(
            num_qo_heads=self.query[1],
            num_kv_heads=self.key[1],
            head_dim=self.key[3],
            window=window_within(options.get("sliding_window"), max_model_len),
            scale=options.get("scaling"),
            soft_cap=options.get("softcap"),
            has_sinks=options.get("s_aux") is not None,
        )


class _Recorder:
    """Takes the place of every layer in a trial."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Mapping[str, Any]) -> Tensor:
        self.trials.append(Trial(tuple(query.shape), tuple(key.shape), value.shape[3], options))
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def _paged(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What the library calls."""
    if attention_mask is not None:
        raise NotImplementedError("attention with a bias or a mask of its own")
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise NotImplementedError("attention that is not causal")
    layer: Any = module.paged_layer
    attended: Tensor = layer(query, key, value, options)
    return attended, None


def register() -> None:
    """Make our attention known to the library, which makes masks only for interfaces that have registered some."""
    AttentionInterface.register(INTERFACE, _paged)


@dataclass(frozen=True, slots=True)
class Trials:
    """What the library did in a trial.

    Attributes:
        attention: of each layer, by the name of the module that called for it.
        linears: names of the linear layers that were called, each with rows of its own type only.
        output: the kind of a decoder's.
    """

    attention: Mapping[str, Trial]
    linears: Sequence[str]
    output: type


@torch.inference_mode()
def trials(outline: Any) -> Trials:
    """
    Args:
        outline: a causal language model of the library, on the meta device.

    Raises:
        StartupError: it is none that is computed here.
    """
    recorders = {name: _Recorder() for name, _ in outline.named_modules()}
    fit: dict[str, bool] = {}
    for name, module in outline.named_modules():
        module.paged_layer = recorders[name]
        if type(module) is nn.Linear:
            module.register_forward_pre_hook(partial(_note, fit, name))
    ids = torch.zeros(1, _TRIAL_TOKENS, dtype=torch.int64, device="meta")
    kind = outline.config.model_type
    try:
        output = outline.base_model(input_ids=ids, position_ids=ids, use_cache=False, return_dict=True)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise StartupError(f"model_type {kind}: not computed with paged attention: {error}") from error
    found = {name: each.trials for name, each in recorders.items() if each.trials}
    count = outline.config.num_hidden_layers
    if len(found) != count or any(len(each) > 1 for each in found.values()):
        raise StartupError(
            f"model_type {kind}: each of its {count} layers must have attention of its own through the interface of "
            f"transformers, got {len(found)} that have"
        )
    attention = {name: each[0] for name, each in found.items()}
    return Trials(attention, [name for name, fits in fit.items() if fits], type(output))


def _note(fit: dict[str, bool], name: str, module: nn.Linear, given: tuple[Tensor, ...]) -> None:
    fit[name] = fit.get(name, True) and len(given) == 1 and given[0].dtype == module.weight.dtype
