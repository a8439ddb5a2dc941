"""Mistral: a Llama without biases whose layers may all slide."""

from dataclasses import replace

from quire.engine.model.hf_config import HfConfig
from quire.engine.model.model_config import ModelConfig, common_config


def mistral_config(hf: HfConfig) -> ModelConfig:
    """As `transformers.MistralConfig` means it."""
    return replace(common_config(hf), windows=(hf.sliding_window,) * hf.num_hidden_layers)
