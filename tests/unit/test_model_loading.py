"""Model folders: which are taken, what identifies them, and what the refusals say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor
from quire.engine.model.source import resolve_model
from quire.engine.models.rope_frequencies import inverse_frequencies
from quire.engine.weights.checkpoint import read_checkpoint
from support.checkpoints import edit_config, edit_weights, start, write_llama
from support.composed import compose, weight

CPU = torch.device("cpu")
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_llama(tmp_path)
    return tmp_path


def test_merged_parameters_hold_the_parts_in_order(tmp_path: Path) -> None:
    model = write_llama(tmp_path, attention_bias=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    for layer, hf in enumerate(model.model.layers):
        block = compose(tmp_path).block(layer)
        qkv = block.attention.qkv.kernel
        parts = (hf.self_attn.q_proj, hf.self_attn.k_proj, hf.self_attn.v_proj)
        assert torch.equal(qkv.weight, torch.cat([part.weight for part in parts]))
        assert torch.equal(qkv.bias, torch.cat([part.bias for part in parts]))
        assert torch.equal(
            block.feed_forward.gate_up.kernel.gate_up.weight,
            torch.cat((hf.mlp.gate_proj.weight, hf.mlp.up_proj.weight)),
        )


def test_shards_load_as_one_file_does(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sharded = tmp_path_factory.mktemp("sharded")
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="20KB")
    checkpoint = read_checkpoint(sharded)
    assert len(checkpoint.weight_files) > 1
    one, many = compose(folder), compose(sharded)
    assert torch.equal(one.embedding, many.embedding)
    assert torch.equal(*(weight(each.block(1).feed_forward.down) for each in (one, many)))


def test_weights_are_converted(folder: Path) -> None:
    assert compose(folder, torch.bfloat16).norm.dtype == torch.bfloat16


def test_the_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "trained otherwise", "other shape")]
    write_llama(folders[0])
    write_llama(folders[1])
    write_llama(folders[2], seed=1)
    write_llama(folders[3], intermediate_size=64)
    one, same, *others = (read_checkpoint(folder).fingerprint for folder in folders)
    assert len(one) == 64
    assert one == same
    assert len({one, *others}) == 3
    edit_config(folders[1], transformers_version="5.0.0")
    assert read_checkpoint(folders[1]).fingerprint == one
    edit_config(folders[1], rms_norm_eps=1e-3)
    assert read_checkpoint(folders[1]).fingerprint != one


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architectures": ["FalconForCausalLM"]}, r"LlamaForCausalLM, .*, got \['FalconForCausalLM'\]"),
        ({"architectures": None}, "architectures: one must be among"),
        ({"model_type": "no-such-type"}, "no-such-type"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu, got 'gelu'"),
        ({"architectures": 2.5}, r"architectures: one must be among .*, got 2\.5"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures: one must be among"),
        ({"model_type": None}, "config.json: model_type must be one of llama, mistral, .*, got None"),
        ({"model_type": ["llama"]}, r"config.json: model_type must be one of llama, .*, got \['llama'\]"),
        ({"tie_word_embeddings": "no"}, "config.json: tie_word_embeddings: input should be a valid boolean, got 'no'"),
        ({"vocab_size": None}, "config.json: vocab_size: input should be a valid integer, got None"),
        ({"head_dim": None, "hidden_size": 34}, "hidden_size must be a multiple of num_attention_heads, 4, .*, got 34"),
        ({"rope_parameters": 7}, "rope_parameters must be an object, got 7"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]},
         "layer_types must have an entry for each of 2 layers, got 1"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "layer_types": ["other", "full_attention"]},
         "config.json: layer_types.0: input should be 'full_attention' or 'sliding_attention', got 'other'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer from 1 to 16384, got 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer from 1 to 10000, got 0"),
        ({"num_key_value_heads": -1}, "num_key_value_heads must be an integer from 1 to 16384, got -1"),
        ({"head_dim": 7}, "head_dim.*7"),
        ({"vocab_size": 2**40}, "vocab_size must be an integer from 1 to 16777216, got 1099511627776"),
        ({"intermediate_size": True}, "intermediate_size must be an integer from 1 to 16777216, got True"),
        ({"max_position_embeddings": 64.0}, r"max_position_embeddings must be an integer from 2 to .*, got 64\.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number above 0, got nan"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": -1},
         r"sliding_window must be above 0, got -1"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "rope_theta must be a number above 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": None}}, "rope_theta must be a number above 0"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}},
         "factor must be a number of at least 1, got 0"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": "many"}},
         "beta_fast must be a number above 0, got 'many'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5}},
         r"rotary positions must span 8 of the head of 8, got a part of 0\.5"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method must be one of fp8, awq, gptq, "),
        ({"num_key_value_heads": 3}, "4 query heads do not divide among 3"),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type must be one of default, linear, dynamic, llama3, yarn, longrope, got 'proportional'",
        ),
    ],
)  # fmt: skip
def test_models_that_are_not_supported(folder: Path, changes: dict[str, Any], complaint: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(StartupError, match=complaint) as error:
        start(folder)
    assert str(folder) in str(error.value)


def test_rotary_scaling_in_the_older_format(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | {"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    inv_freq, _ = inverse_frequencies(read_checkpoint(folder).config, 8, 64)
    assert inv_freq == pytest.approx([100.0 ** (-pair / 4) / 2 for pair in range(4)])


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=40)).save_pretrained(tmp_path)
    with pytest.raises(StartupError, match=r"LlamaForCausalLM.*got \['GPT2LMHeadModel'\]"):
        start(tmp_path, model_impl="quire")


def test_missing_tensors_are_counted_and_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1" in name])
    with pytest.raises(StartupError, match=r"9 tensors are missing: model\.layers\.1\.input_layernorm\.weight, .*…"):
        start(folder)


def test_a_wrong_shape_names_both(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({Q_PROJ: torch.zeros(31, 32)}))
    with pytest.raises(StartupError, match=rf"{Q_PROJ} has shape \(31, 32\), but config.json says \(32, 32\)"):
        start(folder)


def test_tensors_that_no_one_needs_are_left_alone(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.rotary_emb.inv_freq": torch.zeros(4)}))
    assert start(folder, num_blocks=1).info.num_blocks == 1


def test_a_file_cut_off_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(StartupError, match=r"model\.safetensors: not a safetensors file, or cut off"):
        start(folder)
    path.write_bytes(b"not weights at all")
    with pytest.raises(StartupError, match=r"model\.safetensors: not a safetensors file"):
        start(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(StartupError, match=r"has no weights; must hold model\.safetensors"):
        start(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "lost.safetensors"}}))
    with pytest.raises(StartupError, match=r"names 1 files that are not there: lost\.safetensors"):
        start(folder)


def test_the_pool_comes_from_the_memory_allowed(folder: Path) -> None:
    # 2 layers, keys and values, 2 heads of 8, float32: 256 bytes a token.
    assert start(folder, kv_memory_mib=1, block_size=16, dtype="float32").info.num_blocks == 256
    assert start(folder, kv_memory_mib=1, block_size=16, dtype="bfloat16").info.num_blocks == 512
    write_llama(folder, hidden_size=2048, head_dim=512)
    complaint = "1 MiB hold no block; one of 256 tokens takes 4194304 bytes, so it must be at least 4"
    with pytest.raises(StartupError, match=complaint):
        start(folder, kv_memory_mib=1, block_size=256)


def test_a_card_too_small_is_a_message_with_the_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 16.00 GiB")

    monkeypatch.setattr("quire.engine.executor.ModelEngine", no_memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 8 << 30))
    with pytest.raises(StartupError, match=r"where 1\.00 of 8\.00 GiB are free.*: Tried to allocate 16\.00 GiB"):
        start(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(StartupError, match="device: 'cuda' was asked for"):
        Executor(ExecutorConfig(model=str(folder), device="cuda"))


def test_sources(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder
    with pytest.raises(StartupError, match=r"config\.json' is a file"):
        resolve_model(str(folder / "config.json"))
    (folder / "config.json").unlink()
    with pytest.raises(StartupError, match=r"has no config\.json"):
        resolve_model(str(folder))


def test_no_model_is_the_demo_model() -> None:
    assert resolve_model(None) == DEMO_MODEL


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no such/folder/at all", "there is no folder 'no such/folder/at all'"),
        ("./nothing", "there is no folder './nothing'"),
        ("nothing/", "there is no folder 'nothing/'"),
        (" ", "must be a folder or a hub id, got ' '"),
        (
            "quire-tests/offline",
            "there is no folder 'quire-tests/offline', and no such model of the hub: it is not in the local cache, and "
            "the hub cannot be reached",
        ),
    ],
)
def test_a_model_that_cannot_be_had(model: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StartupError) as caught:
        resolve_model(model)
    assert str(caught.value) == f"model: {message}"


def test_resolving_does_not_load_torch() -> None:
    code = "import sys, quire.engine.model.source; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
