"""`config.json` of a Hugging Face folder, with the defaults that `transformers` gives to what it leaves out.

The library itself takes seconds to import, and is not needed to read a file.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quire.engine.api.errors import StartupError
from quire.engine.config import mistakes
from quire.engine.json_file import shortened
from quire.engine.quantization.config import read_quantization
from quire.kernels.activation import SILU, Activation

# The least and the most of each size in config.json. The most is far above every model's, and low enough that the bytes
# of any matrix are a 64-bit number. The library fills in what is left out or null.
_SIZES: Final = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 20),
    "intermediate_size": (1, 1 << 24),
    "num_hidden_layers": (1, 10_000),
    "num_attention_heads": (1, 1 << 14),
    "num_key_value_heads": (1, 1 << 14),
    "head_dim": (2, 1 << 12),
    "max_position_embeddings": (2, 1 << 24),
}


class DecoderConfig(BaseModel):
    """What all families have in common; a family's class adds its own, and its own defaults. Other keys are left alone.

    Attributes:
        rope_parameters: rotary positions, in the form of version 5: with rope_type and rope_theta.
        eos_token_id: only the default; `read_end_tokens` reads what the file says.
        layer_types: empty where no layer slides by itself.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    rope_theta: ClassVar[float] = 10_000.0
    activations: ClassVar[Mapping[str, Activation]] = {"silu": SILU}

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
    layer_types: list[Literal["full_attention", "sliding_attention"]] = []
    rope_parameters: dict[str, Any]
    quantization_config: Any = None
    eos_token_id: int | None = None

    @classmethod
    def read(cls, description: Mapping[str, Any]) -> Self:
        """
        Args:
            description: the object in config.json, whose sizes are checked.

        Raises:
            StartupError: a value is of a wrong type.
        """
        values = {**cls.defaults(), **description, "eos_token_id": cls.model_fields["eos_token_id"].default}
        cls.fill(values)
        return cls.check(values)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """
        Args:
            values: nothing left out.

        Raises:
            StartupError: as `read`.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise StartupError(
                "; ".join(f"config.json: {each.setting}: {each.reason}" for each in mistakes(error))
            ) from error

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Of the fields that have one."""
        return {name: field.default for name, field in cls.model_fields.items() if not field.is_required()}

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        """Complete values that follow from others, in place."""
        _fill_heads(values)
        values["rope_parameters"] = rope_parameters(values, cls.rope_theta)

    def require(self) -> None:
        """
        Raises:
            StartupError: the model has something that its family does not compute.
        """
        known = self.activations
        require(self.hidden_act in known, f"hidden_act must be {' or '.join(known)}, got {self.hidden_act!r}")
        read_quantization(self.quantization_config)
        eps = self.rms_norm_eps
        require(0 < eps < math.inf, f"rms_norm_eps must be a number above 0, got {eps!r}")
        num_heads, num_kv_heads = self.num_attention_heads, self.num_key_value_heads
        require(num_heads % num_kv_heads == 0, f"{num_heads} query heads do not divide among {num_kv_heads} key heads")
        require(self.head_dim % 2 == 0, f"head_dim must be even, got {self.head_dim}")

    @property
    def activation(self) -> Activation:
        """Of the feed-forward layers."""
        return self.activations[self.hidden_act]

    @property
    def rotary_dim(self) -> int:
        """Numbers of a head that are rotated, in families that may rotate a part of it."""
        part = self.rope_parameters.get("partial_rotary_factor")
        return self.head_dim if part is None else int(self.head_dim * part)

    def window(self, layer: int) -> int | None:
        """Of a layer, by its type."""
        return self.sliding_window if self.layer_types and self.layer_types[layer] == "sliding_attention" else None


def check_sizes(description: Mapping[str, Any]) -> None:
    """
    Args:
        description: the object in config.json.

    Raises:
        StartupError: one of its sizes is not an integer within its bounds.
    """
    for name, (least, most) in _SIZES.items():
        value = description.get(name)
        is_size = value is None or (type(value) is int and least <= value <= most)
        require(is_size, f"{name} must be an integer from {least} to {most}, got {shortened(value)}")


def require(holds: bool, complaint: str) -> None:
    """
    Raises:
        StartupError: it does not hold.
    """
    if not holds:
        raise StartupError(f"model configuration: {complaint}")


def check_layer_types(values: Mapping[str, Any]) -> None:
    """
    Raises:
        StartupError: there are layer types, but not one for each layer.
    """
    count, kinds = values["num_hidden_layers"], values.get("layer_types")
    if isinstance(kinds, list) and len(kinds) != count:
        raise StartupError(f"config.json: layer_types must have an entry for each of {count} layers, got {len(kinds)}")


def _fill_heads(values: dict[str, Any]) -> None:
    num_heads, hidden_size = values["num_attention_heads"], values["hidden_size"]
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = num_heads
    if values.get("head_dim") is None and num_heads and hidden_size:
        if hidden_size % num_heads:
            raise StartupError(
                f"config.json: hidden_size must be a multiple of num_attention_heads, {num_heads}, where there is no "
                f"head_dim, got {hidden_size}"
            )
        values["head_dim"] = hidden_size // num_heads


def rope_parameters(values: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """As version 5 writes them, also of a file that an older version has written."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise StartupError(f"config.json: rope_parameters must be an object, got {shortened(given)}")
    rope = dict(given)
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", values.get("rope_theta", theta))
    if values.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        # Beside them it counts more.
        original = values.get("original_max_position_embeddings")
        rope["original_max_position_embeddings"] = (
            original or rope.get("original_max_position_embeddings") or values["max_position_embeddings"]
        )
    return rope
