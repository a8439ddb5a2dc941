"""The `Checkpoint`: what a model folder says about itself, before any weight is loaded."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from quire.engine.api.errors import StartupError
from quire.engine.json_file import read_json_object
from quire.engine.models.config import DecoderConfig, check_sizes
from quire.engine.models.families import AUTO, Model, find_model
from quire.engine.models.outline import Outline, outline
from quire.engine.models.rope_frequencies import context_length
from quire.engine.weights.end_tokens import END_TOKENS, read_end_tokens
from quire.engine.weights.stored_tensors import StoredTensor, stored_tensors

CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"
_DTYPES: Final = MappingProxyType({"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16})
_SAMPLE_BYTES: Final = 64 * 1024
_HEADER_LENGTH_BYTES: Final = 8
# Which library wrote a configuration, and where it was read from, does not change what it computes.
_IRRELEVANT_KEYS: Final = frozenset({"transformers_version", "_name_or_path"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder.

    Attributes:
        folder: where it is.
        model: what to compute.
        max_model_len: tokens of prompt and generation together.
        outline: what it consists of.
        tensors: its weights, by name.
        fingerprint: SHA-256 (hex) over configuration, headers of the weights, a sample of their bytes, and the length
            to which the model's positions are stretched.
        eos_token_ids: tokens that end a sequence, ascending.
    """

    folder: Path
    model: Model
    max_model_len: int
    outline: Outline
    tensors: Mapping[str, StoredTensor]
    fingerprint: str
    eos_token_ids: tuple[int, ...]

    @property
    def config(self) -> DecoderConfig:
        """What config.json says of the model."""
        return self.model.config

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold its weights, sorted."""
        return tuple(sorted({tensor.path for tensor in self.tensors.values()}))

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of all its matrices; None if they have several, or one that nothing computes with."""
        dtypes = {tensor.dtype for tensor in self.tensors.values() if len(tensor.shape) == 2}
        return _DTYPES.get(dtypes.pop()) if len(dtypes) == 1 else None


def read_checkpoint(folder: Path, max_model_len: int | None = None, model_impl: str = AUTO) -> Checkpoint:
    """Read everything but the weights.

    Args:
        max_model_len: tokens of prompt and generation together; None: the model's own limit.
        model_impl: whose code computes it, see `find_model`.

    Raises:
        StartupError: the folder lacks files, they cannot be read, the model is not supported, or it does not reach that
            length.
    """
    try:
        description = read_json_object(folder / CONFIG)
        check_sizes(description)
        named = read_end_tokens(CONFIG, description)
        generation = read_json_object(folder / GENERATION_CONFIG, required=False)
        # Chat models end turns with more tokens than config.json names.
        eos = read_end_tokens(GENERATION_CONFIG, generation) or named
        model = find_model(description, model_impl)
        config, length = model.config, context_length(model.config, max_model_len)
        if eos is None and END_TOKENS not in description:
            eos = read_end_tokens(CONFIG, {END_TOKENS: config.eos_token_id})
        tensors = stored_tensors(folder)
        stretched = length if length > config.max_position_embeddings else None
        return Checkpoint(
            folder=folder,
            model=model,
            max_model_len=length,
            outline=outline(model, length, {name: tensor.shape for name, tensor in tensors.items()}),
            tensors=tensors,
            fingerprint=_fingerprint(description, tensors, stretched),
            eos_token_ids=eos.below(config.vocab_size) if eos else (),
        )
    except StartupError as error:
        raise StartupError(f"model {folder}: {error}") from error


def _fingerprint(description: Mapping[str, Any], tensors: Mapping[str, StoredTensor], stretched: int | None) -> str:
    """Headers distinguish shapes; the sample distinguishes two trainings of one shape. All bytes would take minutes."""
    config = {key: value for key, value in description.items() if key not in _IRRELEVANT_KEYS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    if stretched is not None:
        digest.update(f"stretched to {stretched}".encode())
    names: dict[Path, list[str]] = {}
    for name, tensor in sorted(tensors.items()):
        names.setdefault(tensor.path, []).append(name)
    for path, held in sorted(names.items()):
        # Which of two tensors of one name counts.
        digest.update("\n".join(held).encode())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
            size = os.fstat(file.fileno()).st_size
            digest.update(file.read(length))
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(_HEADER_LENGTH_BYTES + length, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
