"""Backends of kernels: what they declare is what is selected, refused, offered as settings and documented."""

import logging
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from quire.engine.config import ExecutorConfig
from quire.engine.model.cuda_graphs import GraphAttention
from quire.kernels import backend
from quire.kernels.attention import AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.backend import Capability, Requirements
from quire.kernels.native.attention import NativeAttention
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.registry import BACKENDS, CHOICES, attention_backend, kernel_suite

ROOT = Path(__file__).parents[2]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SPEC = AttentionSpec(8, 2, 64, 16, torch.bfloat16, GPU)


@pytest.mark.parametrize("setting", ["kernels", "attention"])
def test_settings_offer_the_backends_that_there_are(setting: str) -> None:
    assert set(get_args(ExecutorConfig.model_fields[setting].annotation)) == set(CHOICES)


def test_the_documents_have_the_tables_of_the_declarations() -> None:
    tables = runpy.run_path(str(ROOT / "tools" / "kernel_tables.py"))["support_tables"]()
    assert tables in (ROOT / "docs" / "kernels.md").read_text()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_called_what_it_is_listed_as(name: str) -> None:
    assert BACKENDS[name].name == name


@pytest.mark.parametrize(("name", "kind"), [("native", NativeAttention), ("torch", TorchAttention)])
def test_what_graphs_capture_is_declared(name: str, kind: type) -> None:
    declared = all(Capability.CUDA_GRAPHS in kernels.capabilities for kernels in BACKENDS[name].attention)
    assert declared == issubclass(kind, GraphAttention)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"head_dim": 96}, None),
        ({"sliding_window": 100, "logits_soft_cap": 2.0, "kv_dtype": torch.float8_e4m3fn}, None),
        ({"kv_dtype": torch.bfloat16, "head_dim": 96}, None),
        ({"head_dim": 96, "sliding_window": 100}, None),
        ({"head_dim": 96, "logits_soft_cap": 2.0}, None),
        ({"head_dim": 96, "kv_dtype": torch.float8_e4m3fn}, None),
        ({"num_qo_heads": 16, "num_kv_heads": 1, "head_dim": 576, "value_dim": 512}, None),
        ({"head_dim": 576}, "FlashInfer MLA computes latent attention only"),
        (
            {"num_kv_heads": 1, "head_dim": 64, "value_dim": 32},
            "Triton lacks latent attention, got 32; FlashInfer MLA needs heads of 576, got 64",
        ),
        (
            {"num_kv_heads": 1, "head_dim": 576, "value_dim": 256},
            "FlashInfer MLA needs latent values of 512, got 256",
        ),
        ({"head_dim": 288}, "Triton needs heads of 1 to 256, got 288"),
        ({"dtype": torch.float32}, "needs torch.float16 or torch.bfloat16, got torch.float32"),
        ({"kv_dtype": torch.float16}, "needs a cache of the compute type, torch.bfloat16, got torch.float16"),
    ],
)
def test_attention_on_a_gpu_goes_to_the_kernels_that_can(change: dict[str, Any], reason: str | None) -> None:
    found = BACKENDS["cuda"].attention_unsupported_reason(replace(SPEC, **change))
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Requirements(), None),
        (Requirements(device_type="cpu", dtypes=(torch.float32,), packages=("torch",)), None),
        (Requirements(device_type="cuda"), "needs a device of type cuda, got cpu"),
        (Requirements(dtypes=(torch.float16,)), "needs torch.float16, got torch.float32"),
        (Requirements(packages=("torch", "no_such"), extra="gpu"), "needs no_such: install the extra 'gpu'"),
        (
            Requirements(instruction_sets=frozenset({"avx2", "fma", "f16c"})),
            "needs an x86-64 processor under Linux with avx2, f16c",
        ),
    ],
)
def test_needs_are_told_one_by_one(needs: Requirements, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "instruction_sets", lambda: frozenset({"fma"}))
    assert needs.unsupported_reason(CPU, torch.float32) == reason


@pytest.mark.parametrize(("found", "is_met"), [((7, 0), False), ((7, 5), True), ((10, 0), True)])
def test_old_gpus_are_refused(found: tuple[int, int], is_met: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    reason = Requirements(compute_capability=(7, 5)).unsupported_reason(GPU, torch.float16)
    assert reason == (None if is_met else "needs compute capability 7.5, got 7.0")


@pytest.mark.parametrize(
    ("name", "reason"), [("cuda", "needs a device of type cuda, got cpu"), ("fast", "must be one")]
)
def test_a_backend_that_is_named_is_had_or_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kernel_suite(name, CPU, torch.float32, 1)


def test_attention_is_the_suites_own_where_that_can(caplog: pytest.LogCaptureFixture) -> None:
    spec = replace(SPEC, device=CPU, dtype=torch.float32)
    chosen = TorchAttention(spec)
    suite = replace(TORCH_SUITE, name="native", attention=lambda spec: chosen)
    assert attention_backend("auto", spec, suite) is chosen
    assert attention_backend("native", spec, suite) is chosen
    assert attention_backend("torch", spec, suite) is not chosen
    beyond = replace(spec, kv_dtype=torch.float8_e4m3fn)
    with caplog.at_level(logging.INFO):
        assert attention_backend("auto", beyond, suite) is not chosen
    assert caplog.messages == ["attention in PyTorch: C++ lacks an fp8 KV cache, got torch.float8_e4m3fn"]
    with pytest.raises(ValueError, match=r"'native': C\+\+ lacks an fp8 KV cache, got torch\.float8_e4m3fn"):
        attention_backend("native", beyond, suite)
    with pytest.raises(ValueError, match="must be one of auto, native, torch with kernels native, got 'cuda'"):
        attention_backend("cuda", spec, suite)
