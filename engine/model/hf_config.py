"""`config.json` of a Hugging Face folder, with the defaults that `transformers` gives to what it leaves out.

The library itself takes seconds to import, and is not needed to read a file.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from quire.engine.api.errors import StartupError
from quire.engine.config import mistakes
from quire.engine.json_file import shortened

_QWEN: Final = MappingProxyType(
    {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
)
# By model_type: where they differ from those of the class below.
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "llama": {"eos_token_id": 2},
        "mistral": {
            "eos_token_id": 2,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        "qwen2": _QWEN,
        "qwen3": {**_QWEN, "head_dim": 128},
    }
)
_ROPE_THETA: Final = 10_000.0


class HfConfig(BaseModel):
    """What Quire reads of it. Other keys are left alone.

    Attributes:
        rope_parameters: rotary positions, in the form of version 5: with rope_type and rope_theta.
        eos_token_id: only the default; `read_end_tokens` reads what the file says.
        layer_types: None where no layer slides by itself.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int
    head_dim: int
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]]
    rope_parameters: dict[str, Any]
    quantization_config: Any = None
    eos_token_id: int | None = None


def read_hf_config(description: Mapping[str, Any]) -> HfConfig:
    """
    Args:
        description: the object in config.json, whose sizes are checked.

    Raises:
        StartupError: its model_type is not supported, or a value is of a wrong type.
    """
    kind = description.get("model_type")
    if not isinstance(kind, str) or kind not in _DEFAULTS:
        raise StartupError(f"config.json: model_type must be one of {', '.join(_DEFAULTS)}, got {shortened(kind)}")
    values = {**_DEFAULTS[kind], **description, "eos_token_id": _DEFAULTS[kind].get("eos_token_id")}
    _fill_heads(values)
    if kind.startswith("qwen"):
        _fill_layer_types(values)
    else:
        values["layer_types"] = []
    values["rope_parameters"] = _rope_parameters(values)
    try:
        return HfConfig.model_validate(values)
    except ValidationError as error:
        raise StartupError(
            "; ".join(f"config.json: {each.setting}: {each.reason}" for each in mistakes(error))
        ) from error


def _size(values: Mapping[str, Any], name: str) -> Any:
    """One that has a default; null is refused later."""
    return values.get(name) or HfConfig.model_fields[name].default


def _fill_heads(values: dict[str, Any]) -> None:
    num_heads, hidden_size = _size(values, "num_attention_heads"), _size(values, "hidden_size")
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = num_heads
    if values.get("head_dim") is None:
        if hidden_size % num_heads:
            raise StartupError(
                f"config.json: hidden_size must be a multiple of num_attention_heads, {num_heads}, where there is no "
                f"head_dim, got {hidden_size}"
            )
        values["head_dim"] = hidden_size // num_heads


def _fill_layer_types(values: dict[str, Any]) -> None:
    """Qwen's layers slide from a number on, where they slide at all; or each says by itself whether it does."""
    if not values.get("use_sliding_window", False):
        values["sliding_window"] = None
    count, kinds = _size(values, "num_hidden_layers"), values.get("layer_types")
    if kinds is None:
        first = values["max_window_layers"] if values["sliding_window"] is not None else count
        values["layer_types"] = ["full_attention" if i < first else "sliding_attention" for i in range(count)]
    elif isinstance(kinds, list) and len(kinds) != count:
        raise StartupError(f"config.json: layer_types must have an entry for each of {count} layers, got {len(kinds)}")


def _rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """As version 5 writes them, also of a file that an older version has written."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise StartupError(f"config.json: rope_parameters must be an object, got {shortened(given)}")
    rope = dict(given)
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", values.get("rope_theta", _ROPE_THETA))
    if values.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    if rope["rope_type"] in ("llama3", "yarn"):
        # Beside them it counts more.
        original = values.get("original_max_position_embeddings")
        rope["original_max_position_embeddings"] = (
            original or rope.get("original_max_position_embeddings") or _size(values, "max_position_embeddings")
        )
    return rope
