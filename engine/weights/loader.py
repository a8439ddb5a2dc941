"""Streams the tensors of a checkpoint into the layers of a model, one at a time."""

import logging
import time
from collections.abc import Mapping

from safetensors import SafetensorError, safe_open

from quire.engine.api.errors import StartupError
from quire.engine.layers.build import Build, Parameter
from quire.engine.weights.checkpoint import Checkpoint
from quire.engine.weights.stored_tensors import StoredTensor, first

logger = logging.getLogger(__name__)


def load_weights(checkpoint: Checkpoint, build: Build) -> None:
    """Give all parameters of a composed model to its layers, and release the rest of the build.

    Raises:
        StartupError: a file is broken, or tensors are missing or have other shapes or types than they should.
    """
    stored, wanted = checkpoint.tensors, build.parameters
    _check(checkpoint, wanted)
    began = time.perf_counter()
    for path in checkpoint.weight_files:
        try:
            with safe_open(path, framework="pt", device=str(build.device)) as file:
                for name, tensor in stored.items():
                    if tensor.path == path and name in wanted:
                        wanted[name].load(file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise StartupError(f"model {checkpoint.folder}: {path.name} cannot be read: {error}") from error
    for complete in build.when_loaded:
        complete()
    # Older checkpoints carry rotary frequencies, which follow from the configuration.
    if unused := {name for name in stored.keys() - wanted.keys() if not name.endswith(".rotary_emb.inv_freq")}:
        logger.warning("%d tensors of %s are not used: %s", len(unused), checkpoint.folder, first(unused))
    build.release()
    gigabytes, seconds = sum(path.stat().st_size for path in checkpoint.weight_files) / 1e9, time.perf_counter() - began
    logger.info("loaded %.2f GB of weights in %.1f s, %.2f GB/s", gigabytes, seconds, gigabytes / seconds)


def _check(checkpoint: Checkpoint, needed: Mapping[str, Parameter]) -> None:
    """Compares what the files hold with what the configuration needs, before anything is allocated.

    Raises:
        StartupError: something is missing or wrong; the message has all of it.
    """
    stored = checkpoint.tensors
    missing = needed.keys() - stored.keys()
    complaints = [f"{len(missing)} tensors are missing: {first(missing)}"] if missing else []
    complaints += _mismatches(needed, stored)
    if complaints:
        raise StartupError(f"model {checkpoint.folder}: {'; '.join(complaints)}")


def _mismatches(needed: Mapping[str, Parameter], stored: Mapping[str, StoredTensor]) -> list[str]:
    both = sorted(needed.keys() & stored.keys())
    shapes = [
        f"{name} has shape {stored[name].shape}, but config.json says {needed[name].shape}"
        for name in both
        if stored[name].shape != needed[name].shape
    ]
    dtypes = [
        f"{name} has type {stored[name].dtype}, must be one of {', '.join(needed[name].dtypes)}"
        for name in both
        if stored[name].dtype not in needed[name].dtypes
    ]
    return [
        ", ".join(found[:3]) + (f", and {len(found) - 3} more" if len(found) > 3 else "")
        for found in (shapes, dtypes)
        if found
    ]
