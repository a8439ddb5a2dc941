"""Streams the tensors of a checkpoint into `Weights`, one at a time."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.model.checkpoint import Checkpoint
from quire.engine.model.stored_tensors import StoredTensor, first
from quire.engine.model.weights import EMBEDDING, LM_HEAD, Weights, destinations, empty_weights

logger = logging.getLogger(__name__)

# Others are codes of a quantization, whose scales nobody here applies.
_DTYPES: Final = ("F64", "F32", "F16", "BF16")


def load_weights(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Weights:
    """All parameters, converted to `dtype` on `device`.

    Raises:
        StartupError: a file is broken, or tensors are missing or have other shapes or types than they should.
    """
    stored, tied = checkpoint.tensors, _is_tied(checkpoint)
    _check(checkpoint, tied)
    weights = empty_weights(checkpoint.config, dtype, device, tied=tied)
    wanted = destinations(checkpoint.config, weights)
    began = time.perf_counter()
    for path in checkpoint.weight_files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name, tensor in stored.items():
                    if tensor.path == path and name in wanted:
                        wanted[name].copy_(file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise StartupError(f"model {checkpoint.folder}: {path.name} cannot be read: {error}") from error
    # Older checkpoints carry rotary frequencies, which follow from the configuration.
    if unused := {name for name in stored.keys() - wanted.keys() if not name.endswith(".rotary_emb.inv_freq")}:
        logger.warning("%d tensors of %s are not used: %s", len(unused), checkpoint.folder, first(unused))
    gigabytes, seconds = sum(path.stat().st_size for path in checkpoint.weight_files) / 1e9, time.perf_counter() - began
    logger.info("loaded %.2f GB of weights in %.1f s, %.2f GB/s", gigabytes, seconds, gigabytes / seconds)
    return _tie(checkpoint, weights)


def _is_tied(checkpoint: Checkpoint) -> bool:
    """Whether one tensor is all there is for the embedding and the output projection."""
    return checkpoint.config.tied_embeddings and not {EMBEDDING, LM_HEAD} <= checkpoint.tensors.keys()


def _tie(checkpoint: Checkpoint, weights: Weights) -> Weights:
    """Shares the matrix where the configuration ties, unless the checkpoint has two that differ: as transformers 5."""
    if not checkpoint.config.tied_embeddings or weights.lm_head is weights.embedding:
        return weights
    if torch.equal(weights.lm_head, weights.embedding):
        return replace(weights, lm_head=weights.embedding)
    logger.warning(
        "model %s: tie_word_embeddings is true, but %s and %s differ: both are used, not tied",
        checkpoint.folder, LM_HEAD, EMBEDDING,
    )  # fmt: skip
    return weights


def _check(checkpoint: Checkpoint, tied: bool) -> None:
    """Compares what the files hold with what the configuration needs, before anything is allocated.

    Raises:
        StartupError: something is missing or wrong; the message has all of it.
    """
    meta, stored = torch.device("meta"), checkpoint.tensors
    needed = destinations(checkpoint.config, empty_weights(checkpoint.config, torch.float32, meta, tied=tied))
    if tied:
        del needed[EMBEDDING if LM_HEAD in stored else LM_HEAD]
    missing = needed.keys() - stored.keys()
    complaints = [f"{len(missing)} tensors are missing: {first(missing)}"] if missing else []
    complaints += _mismatches(needed, stored)
    if complaints:
        raise StartupError(f"model {checkpoint.folder}: {'; '.join(complaints)}")


def _mismatches(needed: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> list[str]:
    both = sorted(needed.keys() & stored.keys())
    shapes = [
        f"{name} has shape {stored[name].shape}, but config.json says {tuple(needed[name].shape)}"
        for name in both
        if stored[name].shape != tuple(needed[name].shape)
    ]
    dtypes = [
        f"{name} has type {stored[name].dtype}, must be one of {', '.join(_DTYPES)}"
        for name in both
        if stored[name].dtype not in _DTYPES
    ]
    return [
        ", ".join(found[:3]) + (f", and {len(found) - 3} more" if len(found) > 3 else "")
        for found in (shapes, dtypes)
        if found
    ]
