"""Where a model computes and with what type, from the settings."""

import torch

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig


def device_of(config: ExecutorConfig) -> torch.device:
    """
    Raises:
        StartupError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise StartupError("device: 'cuda' was asked for, but there is no usable GPU; must be cpu or auto here")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def dtype_of(config: ExecutorConfig, device: torch.device) -> torch.dtype:
    """Type of weights and activations."""
    match config.dtype:
        case "auto":
            return torch.float32 if device.type == "cpu" else torch.bfloat16
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            return torch.float16


def kv_dtype_of(config: ExecutorConfig, device: torch.device) -> torch.dtype:
    """Type of the KV cache."""
    return torch.float8_e4m3fn if config.kv_cache_dtype == "fp8" else dtype_of(config, device)
