"""The `Checkpoint`: what a model folder says about itself, before any weight is loaded."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from quire.engine.api.errors import StartupError
from quire.engine.model.families import model_config
from quire.engine.model.model_config import ModelConfig

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
_SAMPLE_BYTES: Final = 64 * 1024
_HEADER_LENGTH_BYTES: Final = 8
# Which library wrote a configuration, and where it was read from, does not change what it computes.
_IRRELEVANT_KEYS: Final = frozenset({"transformers_version", "_name_or_path"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder.

    Attributes:
        folder: where it is.
        config: what to compute.
        weight_files: its safetensors files, sorted.
        fingerprint: SHA-256 (hex) over configuration, headers of the weights and a sample of their bytes.
        eos_token_ids: tokens that end a sequence, ascending.
    """

    folder: Path
    config: ModelConfig
    weight_files: tuple[Path, ...]
    fingerprint: str
    eos_token_ids: tuple[int, ...]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read everything but the weights.

    Raises:
        StartupError: the folder lacks files, they cannot be read, or the model is not supported.
    """
    try:
        hf = AutoConfig.from_pretrained(folder)
        config = model_config(hf)
        files = _weight_files(folder)
        return Checkpoint(folder, config, files, _fingerprint(folder, files), _eos_token_ids(folder, hf))
    except StartupError as error:
        raise StartupError(f"model {folder}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise StartupError(f"model {folder}: cannot be read: {error}") from error


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / INDEX).is_file():
        names = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        raise StartupError(f"has no weights; must hold {SINGLE} or {INDEX} with the files it names")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StartupError(f"{INDEX} names {len(missing)} files that are not there: {', '.join(missing[:3])}")
    return tuple(folder / name for name in names)


def _fingerprint(folder: Path, files: tuple[Path, ...]) -> str:
    """Headers distinguish shapes; the sample distinguishes two trainings of one shape. All bytes would take minutes."""
    config = {key: value for key, value in _read_json(folder / "config.json").items() if key not in _IRRELEVANT_KEYS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
            size = os.fstat(file.fileno()).st_size
            if length > size - _HEADER_LENGTH_BYTES:
                raise StartupError(f"{path.name}: not a safetensors file, or cut off at {size} bytes")
            digest.update(file.read(length))
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(_HEADER_LENGTH_BYTES + length, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _eos_token_ids(folder: Path, hf: Any) -> tuple[int, ...]:
    """End tokens; generation_config.json goes before config.json, because chat models end turns with several."""
    path = folder / "generation_config.json"
    ids = _read_json(path).get("eos_token_id") if path.is_file() else None
    if ids is None:
        ids = hf.eos_token_id
    if ids is None:
        return ()
    return tuple(sorted(set(ids))) if isinstance(ids, list) else (int(ids),)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
