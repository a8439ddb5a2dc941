"""Qwen3: queries and keys are normalised per head; the upper layers may slide."""

from dataclasses import replace

from quire.engine.model.hf_config import HfConfig
from quire.engine.model.model_config import ModelConfig, common_config, layer_windows


def qwen3_config(hf: HfConfig) -> ModelConfig:
    """As `transformers.Qwen3Config` means it."""
    return replace(
        common_config(hf),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        qk_norm=True,
        windows=layer_windows(hf),
    )
