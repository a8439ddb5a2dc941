"""The executor on C++ kernels alone: equal to transformers, and to itself in any batch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.resources.kv_cache_spec import MAX_GROUPS
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.native.levels import supported_levels
from support.starts import sequence_start, tables_of

pytestmark = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")

VOCAB = 101
BLOCKS_PER_SLOT = 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 640,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=37)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**(SIZES | {"num_attention_heads": 3, "num_key_value_heads": 1}))),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=37, attn_logit_softcapping=2.0)),
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75})
    ),
    "glm": lambda: GlmForCausalLM(GlmConfig(**SIZES)),
}


def ints(values: Sequence[int]) -> Any:
    return np.array(values, np.int32)


def write_model(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


def new_executor(folder: Path, dtype: str, **settings: Any) -> Executor:
    places = {"device": "cpu", "kernels": "native", "num_blocks": MAX_GROUPS * 4 * BLOCKS_PER_SLOT, "max_batch_size": 4}
    return Executor(ExecutorConfig(model=str(folder), dtype=dtype, **(places | settings)))


def prompt(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


class Driver:
    """Runs sequences whose slots have all their blocks from the start."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.tokens: dict[int, list[int]] = {}
        self.starts: list[SequenceStart] = []

    def start(self, slot: int, tokens: Sequence[int], temperature: float = 0.0) -> None:
        self.tokens[slot] = list(tokens)
        table = tables_of(range(slot, 4 * BLOCKS_PER_SLOT, 4), len(self.executor.info.cache_groups))
        self.starts.append(sequence_start(slot, tokens, table, temperature=temperature, top_p=0.98, seed=99))

    def run(self, context: dict[int, int], generation: Sequence[int] = ()) -> None:
        plan = StepPlan(
            step=1, copies=np.empty((0, 2), np.int32), starts=tuple(self.starts), append_slots=ints([]),
            append_blocks=ints([]), context_slots=ints(list(context)), context_tokens=ints(list(context.values())),
            generation_slots=ints(generation),
        )  # fmt: skip
        self.starts = []
        result = self.executor.execute(plan)
        for slot, token in zip(result.slots.tolist(), result.token_ids.tolist(), strict=True):
            self.tokens[slot].append(token)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = write_model(name, tmp_path)
    driver = Driver(new_executor(tmp_path, "float32"))
    first, second, third = prompt(300, 1), prompt(17, 2), prompt(1, 3)
    driver.start(0, first)
    driver.run({0: 100})
    driver.start(3, second)
    driver.run({0: 200, 3: 17})
    driver.start(1, third)
    driver.run({1: 1}, [3, 0])
    for _ in range(12):
        driver.run({}, [0, 1, 3])
    for slot, start in ((0, first), (3, second), (1, third)):
        made, ids = driver.tokens[slot], torch.tensor([start])
        wanted = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=len(made) - len(start),
            pad_token_id=0,
        )
        assert made == wanted[0].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [(1, 2), (2, 9)])
def test_a_resumed_sequence_is_the_same_to_the_bit(tmp_path: Path, dtype: str, threads: tuple[int, int]) -> None:
    """Alone and by one token at a time, or in chunks beside others and on threads that take each other's cores."""
    write_model("llama", tmp_path)
    start = prompt(9, 5)
    whole = Driver(new_executor(tmp_path, dtype, num_threads=threads[0]))
    whole.start(1, start, temperature=1.5)
    whole.run({1: 9})
    for _ in range(320):
        whole.run({}, [1])

    resumed = Driver(new_executor(tmp_path, dtype, num_threads=threads[1]))
    resumed.start(0, prompt(70, 6))
    resumed.run({0: 70})
    resumed.start(3, whole.tokens[1][:290], temperature=1.5)
    resumed.run({3: 280}, [0])
    resumed.run({3: 10}, [0])
    for _ in range(39):
        resumed.run({}, [0, 3])
    assert resumed.tokens[3] == whole.tokens[1]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_fused_blocks_equal_the_composed_ones(tmp_path: Path, name: str) -> None:
    write_model(name, tmp_path)
    tokens = []
    for settings in ({}, {"attention": "torch"}):
        driver = Driver(new_executor(tmp_path, "float32", **settings))
        driver.start(2, prompt(50, 7))
        driver.run({2: 50})
        for _ in range(20):
            driver.run({}, [2])
        tokens.append(driver.tokens[2])
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_int8_weights_equal_their_reference(tmp_path: Path, name: str) -> None:
    write_model(name, tmp_path)
    tokens, fingerprints = [], set()
    for settings in ({"quantization": "int8"}, {"quantization": "int8", "kernels": "torch"}, {}):
        driver = Driver(new_executor(tmp_path, "float32", **settings))
        driver.start(2, prompt(50, 7))
        driver.run({2: 50})
        for _ in range(20):
            driver.run({}, [2])
        tokens.append(driver.tokens[2])
        fingerprints.add(driver.executor.info.fingerprint)
    assert tokens[0] == tokens[1]
    # Blocks computed with other weights must not be taken for ours.
    assert len(fingerprints) == 2


def test_kernels_that_cannot_compute_are_refused(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    with pytest.raises(StartupError, match=r"needs torch\.float32 or torch\.bfloat16"):
        new_executor(tmp_path, "float16")
