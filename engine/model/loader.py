"""Streams the tensors of a checkpoint into `Weights`, one at a time."""

import logging
import time
from collections.abc import Iterable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.model.checkpoint import Checkpoint
from quire.engine.model.weights import Weights, destinations, empty_weights

logger = logging.getLogger(__name__)


def load_weights(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Weights:
    """All parameters, converted to `dtype` on `device`.

    Raises:
        StartupError: a file is broken, or a tensor is missing or has another shape than the configuration says.
    """
    weights = empty_weights(checkpoint.config, dtype, device)
    waiting = destinations(checkpoint.config, weights)
    unused: list[str] = []
    began = time.perf_counter()
    for path in checkpoint.weight_files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 - a file is not iterable
                    if name in waiting:
                        _store(name, file.get_tensor(name), waiting.pop(name))
                    else:
                        unused.append(name)
        except StartupError as error:
            raise StartupError(f"model {checkpoint.folder}: {path.name}: {error}") from error
        except (OSError, SafetensorError) as error:
            raise StartupError(f"model {checkpoint.folder}: {path.name} cannot be read: {error}") from error
    if waiting:
        raise StartupError(f"model {checkpoint.folder}: {len(waiting)} tensors are missing: {_first(waiting)}")
    if unused:
        logger.info("%d tensors of %s are not used: %s", len(unused), checkpoint.folder, _first(unused))
    gigabytes, seconds = sum(path.stat().st_size for path in checkpoint.weight_files) / 1e9, time.perf_counter() - began
    logger.info("loaded %.2f GB of weights in %.1f s, %.2f GB/s", gigabytes, seconds, gigabytes / seconds)
    return weights


def _store(name: str, source: Tensor, destination: Tensor) -> None:
    if source.shape != destination.shape:
        raise StartupError(f"{name} has shape {tuple(source.shape)}, but config.json says {tuple(destination.shape)}")
    destination.copy_(source)


def _first(names: Iterable[str], count: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:count]) + (", …" if len(ordered) > count else "")
