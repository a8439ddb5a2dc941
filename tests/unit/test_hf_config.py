"""`config.json` is understood as transformers understands it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quire.engine.models.config import DecoderConfig
from quire.engine.models.families import find_model, read_config
from quire.engine.models.llama import LLAMA
from quire.engine.models.outline import outline
from quire.engine.models.rope_frequencies import inverse_frequencies

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
COMMON = {"head_dim", "layer_types", "attention_bias", "mlp_bias", "sliding_window", "quantization_config"}


def both(folder: Path, kind: str, values: dict[str, Any]) -> tuple[DecoderConfig, Any]:
    """Our reading and the library's."""
    description = {"model_type": kind, "architectures": [ARCHITECTURES[kind]], **values}
    (folder / "config.json").write_text(json.dumps(description))
    return read_config(description), AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"num_attention_heads": 16, "hidden_size": 1024},
        {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128},
        {"sliding_window": None, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        {"use_sliding_window": True, "num_hidden_layers": 4, "max_window_layers": 2, "sliding_window": 64},
        {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True},
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, **LLAMA3}},
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 1e6, "partial_rotary_factor": 1.0},
        {"rope_scaling": None, "rope_theta": 1e5},
    ],
)
def test_defaults_are_the_librarys(tmp_path: Path, kind: str, values: dict[str, Any]) -> None:
    ours, theirs = both(tmp_path, kind, values)
    for name in DecoderConfig.model_fields:
        if name not in COMMON:
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    for name in ("attention_bias", "mlp_bias", "sliding_window"):
        if hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name
    if kind.startswith("qwen"):
        assert ours.layer_types == theirs.layer_types


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "dynamic", "factor": 2.5},
        {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "truncate": False},
        {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707, "beta_fast": 16, "beta_slow": 2},
        {"rope_type": "yarn", "factor": 1.0, "attention_factor": 1.25},
        {"rope_type": "longrope", "factor": 16.0},
        {"rope_type": "longrope"},
        {"rope_type": "longrope", "factor": 2.0, "attention_factor": 1.5},
    ],
)
@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("num_positions", [2048, 8000])
def test_frequencies_are_the_librarys(tmp_path: Path, rope: dict[str, Any], head_dim: int, num_positions: int) -> None:
    if rope["rope_type"] == "longrope":
        pairs = head_dim // 2
        rope |= {"short_factor": [1 + i / 8 for i in range(pairs)], "long_factor": [2 + i for i in range(pairs)]}
        rope["original_max_position_embeddings"] = 4096
    ours, theirs = both(tmp_path, "llama", {"rope_parameters": {"rope_theta": 5e5, **rope}, "head_dim": head_dim})
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, seq_len=num_positions)
    assert inverse_frequencies(ours, head_dim, num_positions) == (tuple(frequencies.tolist()), scale)


def test_architecture_and_model_type_may_be_of_two_families() -> None:
    description = {"model_type": "mistral", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    model = find_model(description)
    assert model.family is LLAMA
    assert [(shape.num_kv_heads, shape.window) for shape in outline(model, 64).attention] == [(8, None)]
