"""Qwen2 and Qwen2.5: biases on queries, keys and values; the upper layers may slide."""

from dataclasses import replace

from quire.engine.model.hf_config import HfConfig
from quire.engine.model.model_config import ModelConfig, common_config, layer_windows


def qwen2_config(hf: HfConfig) -> ModelConfig:
    """As `transformers.Qwen2Config` means it."""
    return replace(common_config(hf), qkv_bias=True, windows=layer_windows(hf))
