"""Where a model computes, with what kernels and with what type: settings, machine and checkpoint together."""

from dataclasses import dataclass, replace
from typing import Final

import torch

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig
from quire.engine.layers.attention import AttentionShape
from quire.engine.models.outline import Outline
from quire.engine.weights.checkpoint import Checkpoint
from quire.kernels.attention import AttentionSpec
from quire.kernels.registry import BACKENDS, kernel_suite
from quire.kernels.suite import KernelSuite

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how one model computes.

    Attributes:
        kernels: what computes on the device.
        dtype: of weights and activations.
        kv_dtype: of the KV cache.
    """

    device: torch.device
    kernels: KernelSuite
    dtype: torch.dtype
    kv_dtype: torch.dtype

    def attention_spec(self, shape: AttentionShape, block_size: int) -> AttentionSpec:
        """Of the layers that have this shape."""
        return shape.spec(block_size, self.dtype, self.kv_dtype, self.device)


def place(config: ExecutorConfig, checkpoint: Checkpoint) -> Placement:
    """By the settings; a type that they leave open is chosen for the device, the kernels and the checkpoint.

    Raises:
        StartupError: the device is not there, or the kernels cannot be had.
    """
    device, named = device_of(config), _DTYPES.get(config.dtype)
    if config.quantization == "fp8" and device.type == "cpu":
        raise StartupError("quantization: 'fp8' needs a GPU with fp8 tensor cores; must be none, int8 or int4 on a CPU")
    # Every suite for CPUs computes with float32.
    dtype = named or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    try:
        kernels = kernel_suite(config.kernels, device, dtype, config.num_threads)
    except ValueError as error:
        raise StartupError(str(error)) from error
    placement = _with_dtype(Placement(device, kernels, dtype, dtype), config, dtype)
    stored = checkpoint.dtype
    if named is None and stored is not None and stored in kernels.fast_dtypes:
        fast = _with_dtype(placement, config, stored)
        if _is_attention_native(fast, config, checkpoint.outline):
            return fast
    return placement


def _with_dtype(placement: Placement, config: ExecutorConfig, dtype: torch.dtype) -> Placement:
    return replace(placement, dtype=dtype, kv_dtype=torch.float8_e4m3fn if config.kv_cache_dtype == "fp8" else dtype)


def _is_attention_native(placement: Placement, config: ExecutorConfig, outline: Outline) -> bool:
    """Whether the suite's own attention computes every layer.

    PyTorch's may round differently in another batch. In bfloat16 that changes tokens, in float32 hardly ever.
    """
    backend = BACKENDS[placement.kernels.name]
    specs = [placement.attention_spec(shape, config.block_size) for shape in set(outline.attention)]
    return config.attention in ("auto", backend.name) and not any(map(backend.attention_unsupported_reason, specs))


def device_of(config: ExecutorConfig) -> torch.device:
    """
    Raises:
        StartupError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise StartupError("device: 'cuda' was asked for, but there is no usable GPU; must be cpu or auto here")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")
