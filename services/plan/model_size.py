"""The `ModelSize`: what `config.json` says of a model's parameters, keys and values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quire.engine.json_file import read_json_object
from quire.engine.models.config import check_sizes
from quire.engine.models.families import AUTO, find_model
from quire.engine.models.outline import Outline, outline

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model that Quire serves.

    Attributes:
        outline: what it consists of.
        hidden_size, intermediate_size, vocab_size: sizes.
        max_model_len: tokens of prompt and generation together.
        num_windows: kinds of attention that it has.
        dtype: of the checkpoint, as config.json says.
        stored_bytes: of the checkpoint's weights; None: they are not there, and no index says it.
    """

    outline: Outline
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_model_len: int
    num_windows: int
    dtype: str | None
    stored_bytes: int | None

    def figures(self) -> dict[str, Any]:
        """For programs."""
        parts = self.outline
        return {
            "num_layers": len(parts.attention),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "num_parameters": parts.num_parameters,
            "num_linear": parts.num_linear,
            "kv_numbers_per_token": parts.kv_numbers,
            "max_model_len": self.max_model_len,
            "dtype": self.dtype,
            "stored_bytes": self.stored_bytes,
        }


def read_model_size(folder: Path, model_impl: str = AUTO) -> ModelSize:
    """
    Args:
        model_impl: whose code computes it, see `find_model`.

    Raises:
        StartupError: config.json cannot be read, or is of no model that Quire serves.
    """
    description = read_json_object(folder / "config.json")
    check_sizes(description)
    model = find_model(description, model_impl)
    config, dtype = model.config, description.get("dtype", description.get("torch_dtype"))
    parts = outline(model, config.max_position_embeddings)
    return ModelSize(
        outline=parts,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_model_len=config.max_position_embeddings,
        num_windows=len(set(parts.attention)),
        dtype=dtype if isinstance(dtype, str) else None,
        stored_bytes=_stored_bytes(folder),
    )


def _stored_bytes(folder: Path) -> int | None:
    single = folder / _SINGLE
    if single.is_file():
        return single.stat().st_size
    metadata = read_json_object(folder / _INDEX, required=False).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if isinstance(size, int) else None
