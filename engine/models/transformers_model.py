"""Any other causal language model that `transformers` has: its own modelling code over our paged attention and our
linear layers.

All tokens of a step are one sequence to the library, whose positions we say.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as library_logging

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.layers.attention import Attention
from quire.engine.layers.build import Build, Parameter, Product
from quire.engine.models.config import DecoderConfig, require
from quire.engine.models.transformers_attention import INTERFACE, PagedLayer, register, trials
from quire.engine.models.transformers_linear import LinearModule, linear_layers, stand_ins

# Its types say less than it takes.
_LIBRARY: Final[Any] = AutoModelForCausalLM
# Their frequencies change with the longest sequence of a step: what is cached would not fit what comes.
_REFUSED_ROPES: Final = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class TransformersFamily:
    """Implements `quire.engine.models.families.Model`.

    Attributes:
        config: what the executor asks of it.
        hf: what the library makes of config.json.
    """

    config: DecoderConfig
    hf: PreTrainedConfig
    implementation: str = "transformers"

    def compose(self, build: Build) -> "TransformersModel":
        """Its layers; nothing is allocated yet."""
        return TransformersModel(self.hf, build)


def transformers_family(description: Mapping[str, Any], supported: Iterable[str]) -> TransformersFamily:
    """
    Args:
        description: the object in config.json.
        supported: architectures that need no other library, for messages.

    Raises:
        StartupError: the library has no such causal language model, or not one that is computed here.
    """
    kind = description.get("model_type")
    try:
        hf = AutoConfig.for_model(**{"model_type": kind, **description})
        name = _LIBRARY._model_mapping[type(hf)].__name__
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StartupError(f"model_type: transformers has no causal language model {kind!r}: {error}") from error
    names = description.get("architectures", [name])
    if not isinstance(names, list) or name not in names:
        raise StartupError(
            f"architectures: one must be among {', '.join(supported)}, or {name} that transformers has for model_type "
            f"{kind}, got {shortened(names)}"
        )
    rope = getattr(hf, "rope_parameters", None) or {}
    require(
        rope.get("rope_type") not in _REFUSED_ROPES,
        f"rope_type must not be {rope.get('rope_type')!r} in a model that transformers computes",
    )
    # Our layers read the format; the library would ask for packages of its own.
    vars(hf).pop("quantization_config", None)
    length = getattr(hf, "max_position_embeddings", None)
    require(isinstance(length, int), f"model_type {kind}: max_position_embeddings must be there, got {length}")
    values = {
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "intermediate_size": getattr(hf, "intermediate_size", None) or 4 * hf.hidden_size,
        "num_hidden_layers": hf.num_hidden_layers,
        "num_attention_heads": hf.num_attention_heads,
        "num_key_value_heads": getattr(hf, "num_key_value_heads", None) or hf.num_attention_heads,
        "head_dim": getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": bool(hf.tie_word_embeddings),
        "rope_parameters": {"rope_type": "default", "rope_theta": DecoderConfig.rope_theta},
        "eos_token_id": hf.eos_token_id if isinstance(hf.eos_token_id, int) else None,
        "quantization_config": description.get("quantization_config"),
    }
    return TransformersFamily(DecoderConfig.check(values), hf)


class TransformersModel:
    """Implements `ComposedModel`."""

    def __init__(self, hf: PreTrainedConfig, build: Build) -> None:
        """
        Raises:
            StartupError: attention of some layer is none that is computed here.
        """
        self._hf, self._build = hf, build
        register()
        library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with torch.device("meta"):
            # Of a type whose shapes every operation can tell.
            outline = _made(hf, torch.bfloat16)
        self._kind: Any = type(outline)
        found = trials(outline)
        self._output = found.output
        self._attention = {
            name: PagedLayer(Attention(build, trial.shape(build.max_model_len)), trial.value_dim)
            for name, trial in found.attention.items()
        }
        head = outline.get_output_embeddings()
        self.num_head, self.is_tied = prod(head.weight.shape), bool(hf.tie_word_embeddings)
        shapes = build.stored or {name: tuple(each.shape) for name, each in outline.named_parameters()}
        # Which layers stay in float32 is the library's to say.
        is_mixed = outline._keep_in_fp32_modules or outline._keep_in_fp32_modules_strict
        names = () if is_mixed else found.linears
        self._linears = linear_layers(build, outline, names, shapes)
        build.products.extend(
            Product(part.out_features, part.in_features)
            for name, part in outline.named_modules()
            if isinstance(part, nn.Linear) and part is not head and name not in self._linears
        )
        self._tensors: dict[str, Tensor] = {}
        for name in shapes.keys() - build.parameters.keys():
            build.parameters[name] = Parameter(shapes[name], partial(self._tensors.__setitem__, name))
        build.when_loaded.append(self._load)
        self._module: Any
        self._head: Any

    def fuse(self) -> None:
        """Nothing is fused."""

    def hidden(self, input_ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """As of a `ComposedModel`."""
        output = self._module.base_model(
            input_ids=input_ids[None], position_ids=positions[None], use_cache=False, return_dict=True
        )
        states: Tensor = output.last_hidden_state[0]
        return states if rows is None else states[rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """As of a `ComposedModel`: by the library's code behind the decoder."""
        given = getattr(self._head, self._head.base_model_prefix)
        given.hidden = hidden[None]
        logits: Tensor = self._head(
            input_ids=torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        ).logits
        return logits[0].float()

    def _load(self) -> None:
        """Gives the other tensors to the library, which may arrange them in another way.

        Raises:
            StartupError: some are missing or have wrong shapes.
        """
        self._tensors |= stand_ins(self._build, self._linears)
        module, found = self._kind.from_pretrained(
            None, config=self._hf, state_dict=self._tensors, dtype=self._build.dtype, attn_implementation=INTERFACE,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
        self._tensors.clear()
        missing, wrong = sorted(found["missing_keys"]), sorted(map(str, found["mismatched_keys"]))
        require(not missing, f"{len(missing)} tensors are missing: {', '.join(missing[:3])}")
        require(not wrong, f"{len(wrong)} tensors have other shapes than config.json says: {', '.join(wrong[:3])}")
        self._module = module.to(self._build.device).eval()
        for name, layer in self._attention.items():
            self._module.get_submodule(name).paged_layer = layer
        for name, linear in self._linears.items():
            self._module.set_submodule(name, LinearModule(linear))
        self._head = copy.copy(self._module)
        self._head._modules = {**self._module._modules, self._module.base_model_prefix: _Given(self._output)}


class _Given(nn.Module):
    """In place of a decoder: states that are known."""

    hidden: Tensor

    def __init__(self, output: Callable[..., Any]) -> None:
        super().__init__()
        self._output = output

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._output(last_hidden_state=self.hidden)


def _made(hf: PreTrainedConfig, dtype: torch.dtype) -> Any:
    try:
        made = _LIBRARY.from_config(hf, dtype=dtype, attn_implementation=INTERFACE)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise StartupError(f"model_type {hf.model_type}: transformers cannot make it: {error}") from error
    return made.eval()
