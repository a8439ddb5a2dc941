"""The compute type where the settings leave it open, and that texts do not depend on it being a narrow one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor
from quire.engine.llm import LLM
from quire.engine.model import placement
from quire.engine.model.placement import place
from quire.engine.weights.checkpoint import read_checkpoint
from quire.kernels.native import backend as native_backend
from quire.kernels.native.levels import BF16_LEVELS, LEVELS, supported_levels
from quire.kernels.suite import KernelSuite
from support.checkpoints import edit_weights, write_llama

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
CPU = torch.device("cpu")
native_only = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")


def write_demo(folder: Path, dtype: torch.dtype) -> Path:
    """The demo model, whose heads the native kernels compute, stored in another type."""
    AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=dtype).save_pretrained(folder)
    return folder


def dtype_of(folder: Path, **settings: Any) -> torch.dtype:
    config = ExecutorConfig(device="cpu", num_threads=1, **settings)
    return place(config, read_checkpoint(folder)).dtype


@native_only
@pytest.mark.parametrize("level", LEVELS)
def test_a_processor_that_multiplies_bfloat16_computes_with_it(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: its own kernels stand in for those of the level."""
    path = native_backend.native_library(supported_levels()[-1])
    monkeypatch.setattr(native_backend, "native_library", lambda _: path)
    monkeypatch.setattr(native_backend, "supported_levels", lambda: (level,))
    assert dtype_of(DEMO_MODEL) is (BF16 if level in ("amx_bf16", "avx512_bf16") else F32)


@native_only
def test_a_level_that_cannot_be_had_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    level = supported_levels()[-1]
    assert level not in BF16_LEVELS
    path = native_backend.native_library(level)

    def compiled(asked: str) -> Path:
        if asked != level:
            raise native_backend.CompileError("too old")
        return path

    monkeypatch.setattr(native_backend, "native_library", compiled)
    monkeypatch.setattr(native_backend, "supported_levels", lambda: ("amx_bf16", level))
    assert dtype_of(DEMO_MODEL) is F32


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bfloat16, for the native kernels."""

    def suite(*arguments: Any) -> KernelSuite:
        made = kernel_suite(*arguments)
        return replace(made, fast_dtypes=frozenset({BF16} if made.name == "native" else ()))

    kernel_suite = placement.kernel_suite
    monkeypatch.setattr(placement, "kernel_suite", suite)


@native_only
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("stored", "wanted"), [(BF16, BF16), (F32, F32), (F16, F32)])
def test_the_type_is_the_checkpoints_where_it_is_fast(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    assert dtype_of(write_demo(tmp_path, stored)) is wanted


@native_only
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, BF16),
        ({"quantization": "int8"}, BF16),
        ({"attention": "native"}, BF16),
        ({"attention": "torch"}, F32),
        ({"kernels": "torch"}, F32),
        # The native attention has neither of these.
        ({"kv_cache_dtype": "fp8"}, F32),
        ({"block_size": 4}, F32),
        ({"dtype": "float32"}, F32),
        ({"kernels": "torch", "dtype": "bfloat16"}, BF16),
        ({"kernels": "torch", "dtype": "float16"}, F16),
    ],
)
def test_only_native_kernels_have_a_fast_type(settings: dict[str, Any], wanted: torch.dtype) -> None:
    assert dtype_of(DEMO_MODEL, **settings) is wanted


def test_a_checkpoint_of_several_types_has_none(tmp_path: Path) -> None:
    write_llama(tmp_path)
    assert read_checkpoint(tmp_path).dtype is F32
    edit_weights(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].bfloat16()}))
    assert read_checkpoint(tmp_path).dtype is None
    # Norms do not count: they are vectors, often kept in float32.
    edit_weights(
        tmp_path,
        lambda tensors: tensors.update({name: tensors[name].bfloat16() for name in tensors if "norm" not in name}),
    )
    assert read_checkpoint(tmp_path).dtype is BF16


@native_only
@pytest.mark.usefixtures("fast")
def test_executors_that_compute_with_other_types_share_no_blocks() -> None:
    settings: dict[str, Any] = {"device": "cpu", "num_threads": 1, "num_blocks": 2}
    found = [Executor(ExecutorConfig(dtype=dtype, **settings)).info for dtype in ("auto", "bfloat16", "float32")]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


@native_only
@pytest.mark.usefixtures("fast")
def test_in_the_default_type_a_text_depends_on_no_batch_and_survives_a_cut() -> None:
    """Alone, among others, and continued from the middle as after a fault."""
    prompts = [list(range(3 + index, 40 + 9 * index)) for index in range(8)]
    greedy = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    with LLM(device="cpu", num_threads=2, num_blocks=128) as llm:

        def generated(prompts: list[list[int]], params: SamplingParams) -> list[tuple[int, ...]]:
            return [each.token_ids for each in llm.generate(prompts, params)]

        for params in (greedy, replace(greedy, temperature=0.8, seed=5)):
            together = generated(prompts, params)
            assert [generated([prompt], params)[0] for prompt in prompts] == together
        whole = generated(prompts, greedy)
        cut = [[*prompt, *tokens[:23]] for prompt, tokens in zip(prompts, whole, strict=True)]
        assert generated(cut, replace(greedy, max_tokens=37)) == [tokens[23:] for tokens in whole]
