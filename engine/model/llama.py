"""Llama (Meta, 2 to 3.3) and models of its shape."""

from dataclasses import replace

from quire.engine.model.hf_config import HfConfig
from quire.engine.model.model_config import ModelConfig, common_config


def llama_config(hf: HfConfig) -> ModelConfig:
    """the biases are optional, for all projections of a block at once."""
    return replace(common_config(hf), qkv_bias=hf.attention_bias, output_bias=hf.attention_bias, mlp_bias=hf.mlp_bias)
