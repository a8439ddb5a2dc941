"""Qwen2 and Qwen2.5: biases on queries, keys and values; the upper layers may slide."""

from dataclasses import replace
from typing import Any

from quire.engine.model.model_config import ModelConfig, common_config, layer_windows


def qwen2_config(hf: Any) -> ModelConfig:
    """From a `transformers.Qwen2Config`."""
    return replace(common_config(hf), qkv_bias=True, windows=layer_windows(hf))
