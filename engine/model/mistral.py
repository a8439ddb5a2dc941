"""Mistral: a Llama without biases whose layers may all slide."""

from dataclasses import replace
from typing import Any

from quire.engine.model.model_config import ModelConfig, common_config


def mistral_config(hf: Any) -> ModelConfig:
    """From a `transformers.MistralConfig`."""
    return replace(common_config(hf), windows=(hf.sliding_window,) * hf.num_hidden_layers)
