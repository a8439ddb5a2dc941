"""`quire plan` says what an executor says, and what was measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.services.cli import main
from quire.services.plan.machine import machine, machine_names
from quire.services.plan.memory import plan_memory
from quire.services.plan.model_size import ModelSize, read_model_size
from quire.services.plan.speed import Load, decode_seconds, expected_speed, prefill_seconds

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama, tied": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama, biases": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32)),
    "qwen3, biases": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32, attention_bias=True)),
}
LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=16_384,
    tie_word_embeddings=False,
    dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
)
SMOL_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
    dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
)


@pytest.fixture
def llama_8b(tmp_path: Path) -> Path:
    LLAMA_8B.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    kind, config = MODELS[name]
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = kind(config)
    assert read_model_size(tmp_path).outline.num_parameters == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float32", "kv_memory_mib": 8},
        {"dtype": "bfloat16", "kv_memory_mib": 5, "block_size": 32},
        {"dtype": "float32", "kv_memory_mib": 3, "kv_cache_dtype": "fp8", "kernels": "torch"},
        {"dtype": "float32", "num_blocks": 77},
        {"dtype": "float32"},
    ],
)
def test_the_pool_is_that_of_an_executor(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    config = ExecutorConfig(device="cpu", num_threads=1, max_batch_size=4, **settings)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in config.model_dump(exclude_unset=True).items()]
    assert main(["plan", "--gpu", "epyc-2", "--prompt-len", "16", "--output-len", "4", "--json", *flags]) == 0
    planned = json.loads(capsys.readouterr().out)["memory"]
    info = Executor(config).info
    assert (planned["num_blocks"], planned["block_size"]) == (info.num_blocks, info.block_size)
    assert planned["is_estimate"] is False


def within(expected: float, measured: float, share: float) -> None:
    assert abs(expected / measured - 1) < share, f"{expected:.4g} is expected, {measured:.4g} was measured"


def on(name: str, folder: Path, config: LlamaConfig) -> tuple[Any, ModelSize, Any]:
    config.save_pretrained(folder)
    model, place = read_model_size(folder), machine(name)
    return place, model, plan_memory(ExecutorConfig(max_batch_size=1024), model, place)


@pytest.mark.parametrize(
    ("name", "decode", "prefill"),
    [
        ("h200", {1: 4.26, 16: 5.38, 64: 6.97, 256: 15.23}, {2048: 48.6, 8192: 214}),
        ("h100", {1: 5.70, 16: 7.18, 64: 9.38, 256: 19.7}, {2048: 48.5, 8192: 214}),
    ],
)
def test_steps_on_gpus_are_those_of_the_notes(
    name: str, decode: dict[int, float], prefill: dict[int, float], tmp_path: Path
) -> None:
    place, model, memory = on(name, tmp_path, LLAMA_8B)
    for count, measured in decode.items():
        within(decode_seconds(place, model, memory, count, 1024) * 1e3, measured, 0.03)
    for count, measured in prefill.items():
        within(prefill_seconds(place, model, count) * 1e3, measured, 0.03)


def test_steps_on_a_cpu_are_those_of_the_notes(tmp_path: Path) -> None:
    place, model, memory = on("xeon-amx-2", tmp_path, SMOL_135M)
    for count, measured in {1: 17.1, 8: 29.2, 32: 66.9, 64: 110}.items():
        within(decode_seconds(place, model, memory, count, 1024) * 1e3, measured, 0.1)
    within(prefill_seconds(place, model, 512) * 1e3, 127, 0.1)


def test_whole_loads_are_near_those_of_the_notes(tmp_path: Path) -> None:
    place, model, memory = on("h200", tmp_path, LLAMA_8B)
    for load, seconds in {Load(1024, 128, 128): 6.99, Load(256, 1000, 1000): 24.7, Load(256, 2048, 128): 14.6}.items():
        within(expected_speed(place, model, memory, load).seconds, seconds, 0.1)


def test_a_short_prompt_takes_as_long_as_a_token(tmp_path: Path) -> None:
    place, model, memory = on("h200", tmp_path, LLAMA_8B)
    speed = expected_speed(place, model, memory, Load(1, 8, 2))
    assert speed.first_token_ms == pytest.approx(speed.decode_ms, rel=0.01)
    assert speed.prefill_tokens_s > 8e3 / speed.first_token_ms


def test_shares_between_measured_numbers_are_between_them() -> None:
    place = machine("h200")
    assert place.decode_share(1) == place.decode_share(0.5) == 0.84
    assert place.decode_share(4) == pytest.approx((0.84 + 0.75) / 2)
    assert place.decode_share(4096) == 0.76


@pytest.mark.parametrize("name", machine_names())
def test_every_number_has_a_source(name: str) -> None:
    place = machine(name)
    named = {source.number.rpartition(", ")[2] for source in place.sources}
    assert {"decode", "prefill", "read", "multiply"} <= named
    assert ("memory_mib" in named) == place.is_gpu == (place.memory > 0)
    assert ("spec_read" in named) == place.is_estimate
    assert all(source.source and source.when.year > 2020 for source in place.sources)


def test_an_estimate_is_the_specification_times_what_was_reached() -> None:
    measured, estimated = machine("h200"), machine("l4")
    assert estimated.read / 0.3e12 == pytest.approx(measured.read / 4.8e12)
    assert estimated.multiply / 121e12 == pytest.approx(measured.multiply / 989e12)
    assert (measured.is_estimate, estimated.is_estimate) == (False, True)


def test_what_it_prints(llama_8b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = {"metadata": {"total_size": 16_060_522_496}, "weight_map": {}}
    (llama_8b / "model.safetensors.index.json").write_text(json.dumps(shard))
    loads = ["--concurrency", "1", "--concurrency", "512"]
    assert main(["plan", "--model", str(llama_8b), "--num-blocks", "4000", *loads]) == 0
    said = capsys.readouterr().out
    assert "weights  14.96 GiB, 8,030,261,248 parameters, 14.96 GiB as stored" in said
    assert "131,072 bytes a token" in said
    assert "pool     4,000 blocks of 16, 64,000 tokens" in said
    assert "fits     50 sequences of 1024 + 256 tokens; 3 of 16,384" in said
    assert "512   does not fit at once: 462 wait" in said
    assert "from what was measured there" in said


@pytest.mark.parametrize("flags", [["--gpu=l4"], ["--quantization=int8"], ["--kv-cache-dtype=fp8"]])
def test_what_was_not_measured_is_an_estimate(
    flags: list[str], llama_8b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", str(llama_8b), "--concurrency=1", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["is_estimate"] is True


def test_narrower_numbers_take_less(tmp_path: Path) -> None:
    place, model, memory = on("h200", tmp_path, LLAMA_8B)
    fp8 = plan_memory(ExecutorConfig(kv_cache_dtype="fp8"), model, place)
    int8 = plan_memory(ExecutorConfig(quantization="int8"), model, place)
    assert fp8.block_bytes * 2 == memory.block_bytes
    int4 = plan_memory(ExecutorConfig(quantization="int4"), model, place)
    assert int8.weight_bytes - int4.weight_bytes == pytest.approx((1 - 21 / 32) * model.outline.num_linear, rel=0.01)
    assert int8.weight_bytes == pytest.approx(model.outline.num_linear + 2 * 2 * model.outline.num_head, rel=0.01)
    two_windows = plan_memory(ExecutorConfig(max_batch_size=1024), replace(model, num_windows=2), place)
    assert two_windows.step_bytes - memory.step_bytes == 1 << 29


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--gpu=z80"], "must be one of h200, h100"),
        (["--tensor-parallel-size=2"], "must be 1, as an executor computes on one GPU"),
        (["--device=cpu"], "must be cuda or auto, as --gpu is h200"),
        (["--concurrency=0"], "must be at least 1"),
        (["--prompt-len=20000"], "must be at most 16384 together"),
        (["--num-blocks=10"], "must be at most 161 together, as the KV pool has 10 blocks of 16"),
        (["--gpu=l4", "--dtype=float32"], "leaves -12.27 GiB"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str], reason: str, llama_8b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", str(llama_8b), *flags]) == 1
    assert reason in capsys.readouterr().err


def test_a_model_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert main(["plan", "--model", str(tmp_path)]) == 1
    assert "model_type mamba: max_position_embeddings must be there" in capsys.readouterr().err
