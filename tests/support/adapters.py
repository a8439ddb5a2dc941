"""Random adapters, written by PEFT, and what transformers generates with one merged into its model."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

ALL_LINEAR = "all-linear"


def write_adapter(folder: Path, model: Path, *, seed: int = 0, spread: float = 0.3, **config: Any) -> Path:
    """An adapter for the model of a folder whose matrices are all random, up and down.

    Args:
        spread: standard deviation of `up`.
        config: of `LoraConfig`; default: rank 8 of all linear layers.
    """
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM", **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in a way of before
        adapted = get_peft_model(base, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * spread
        elif "lora_A" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    adapted.save_pretrained(folder)
    return folder


def merged(model: Path, adapter: Path) -> PreTrainedModel:
    """The model with the adapter merged into its weights, float32."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        whole: PreTrainedModel = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    return whole
