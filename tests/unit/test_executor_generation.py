"""The executor against `transformers`: the same tokens, however a sequence is cut, mixed, shared or resumed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from quire.engine.api.errors import InvalidRequest
from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.step import DeviceKind, SequenceStart, StepPlan, StepResult
from support.starts import blocks_of, sequence_start, tables_of

BLOCK_SIZE = 4
NUM_BLOCKS = 200
VOCAB = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Large enough that greedy choices are far apart.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LATENT: dict[str, Any] = SIZES | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def scaled(kind: str) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}}


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama biased, head of 16, tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=16, tie_word_embeddings=True)
    ),
    "llama with llama3 rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "llama with linear rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **scaled("linear"))),
    "llama with dynamic rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **scaled("dynamic"))),
    "llama with yarn rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **scaled("yarn"))),
    "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=11, head_dim=24)),
    "mistral, not sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2, upper layers sliding": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=20, tie_word_embeddings=True)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=20, query_pre_attn_scalar=13, sliding_window=9, final_logit_softcapping=3.0,
                     attn_logit_softcapping=2.0)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, head_dim=20, query_pre_attn_scalar=13, sliding_window=9,
                         layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    ),
    "gemma3, scaled positions": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, head_dim=20, sliding_window=9, sliding_window_pattern=3, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        })
    ),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, sliding_window=17)),
    "phi4, a part rotated": lambda: Phi3ForCausalLM(
        Phi3Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5})
    ),
    "glm": lambda: GlmForCausalLM(GlmConfig(**SIZES, head_dim=12)),
    "glm4": lambda: Glm4ForCausalLM(Glm4Config(**SIZES, head_dim=16, attention_bias=True)),
    "deepseek_v2": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(**LATENT, q_lora_rank=None, num_experts_per_tok=2, n_routed_experts=6,
                         n_group=3, topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=1.7,
                         rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 0.7,
                                          "mscale_all_dim": 0.7, "original_max_position_embeddings": 64})
    ),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**LATENT, q_lora_rank=24, num_experts_per_tok=3, n_routed_experts=8, n_group=4, topk_group=2)
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**(SIZES | {"num_hidden_layers": 4}), head_dim=20, num_experts=6, num_experts_per_tok=3,
                       moe_intermediate_size=24, mlp_only_layers=[1], norm_topk_prob=True)
    ),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**(SIZES | {"hidden_size": 64, "intermediate_size": 32}), head_dim=20, num_local_experts=4,
                     num_experts_per_tok=2, sliding_window=9)
    ),
    "granite": lambda: GraniteForCausalLM(
        GraniteConfig(**SIZES, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.7,
                      attention_multiplier=0.11)
    ),
}  # fmt: skip


def write_model(name: str, folder: Path) -> Any:
    """A random model in `folder`; biases and norms too are random, or leaving them out would not show."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


def new_executor(folder: Path, **settings: Any) -> Executor:
    defaults: dict[str, Any] = {
        "num_blocks": NUM_BLOCKS,
        "block_size": BLOCK_SIZE,
        "max_batch_size": 8,
        "device": "cpu",
        "dtype": "float32",
    }
    return Executor(ExecutorConfig(model=str(folder), **(defaults | settings)))


def ints(values: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(values, np.int32)


@dataclass
class Driver:
    """The smallest scheduler: gives every slot the blocks it needs and writes down what was sampled.

    A place is a block in each of the executor's cache groups.
    """

    executor: Executor
    free: list[int] = field(default_factory=list)
    tables: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    pending: list[SequenceStart] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        self.num_groups = len(self.executor.info.cache_groups)
        self.free = np.random.default_rng(1).permutation(NUM_BLOCKS // self.num_groups).tolist()

    def start(
        self,
        slot: int,
        tokens: Sequence[int],
        *,
        shared: Sequence[int] = (),
        temperature: float = 0,
        seed: int = 0,
    ) -> None:
        """`shared` blocks are full and computed; the slot gets one block besides."""
        self.tables[slot] = [*shared, self.free.pop()]
        self.lengths[slot] = len(shared) * BLOCK_SIZE
        self.tokens[slot] = list(tokens)
        tables = tables_of(self.tables[slot], self.num_groups)
        self.pending.append(
            sequence_start(slot, tokens, tables, self.lengths[slot], temperature=temperature, top_p=0.95, seed=seed)
        )

    def run(
        self,
        context: Mapping[int, int] | None = None,
        generation: Sequence[int] = (),
        copies: Sequence[tuple[int, int]] = (),
    ) -> StepResult:
        context = context or {}
        appended: list[tuple[int, int]] = []
        for slot, count in [*context.items(), *((slot, 1) for slot in generation)]:
            self.lengths[slot] += count
            while len(self.tables[slot]) * BLOCK_SIZE < self.lengths[slot]:
                self.tables[slot].append(self.free.pop())
                appended.append((slot, self.tables[slot][-1]))
        self.step += 1
        plan = StepPlan(
            step=self.step,
            copies=np.array([blocks_of(pair, self.num_groups) for pair in copies], np.int32)
            .reshape(-1, 2, self.num_groups)
            .swapaxes(1, 2)
            .reshape(-1, 2),
            starts=tuple(self.pending),
            append_slots=ints([slot for slot, _ in appended]),
            append_blocks=ints(blocks_of([place for _, place in appended], self.num_groups)),
            context_slots=ints(list(context)),
            context_tokens=ints(list(context.values())),
            generation_slots=ints(generation),
        )
        self.pending = []
        result = self.executor.execute(plan)
        assert result.step == self.step
        for slot, token in zip(result.slots.tolist(), result.token_ids.tolist(), strict=True):
            self.tokens[slot].append(token)
        return result

    def generate(self, slots: Sequence[int], count: int) -> None:
        for _ in range(count):
            self.run(generation=slots)


def prompt(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


def reference(model: Any, tokens: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([tokens])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    return [int(token) for token in out[0]]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = write_model(name, tmp_path)
    driver = Driver(new_executor(tmp_path))
    first, second, third, fourth = prompt(23, 1), prompt(5, 2), prompt(41, 3), prompt(1, 4)

    driver.start(0, first)
    assert len(driver.run({0: 10}).slots) == 0
    driver.start(5, second)
    result = driver.run({0: 13, 5: 4})
    assert result.slots.tolist() == [0]
    driver.start(2, third)
    driver.start(3, fourth)
    result = driver.run({5: 1, 2: 19, 3: 1}, generation=[0])
    assert result.slots.tolist() == [5, 3, 0]
    driver.run({2: 1}, generation=[5, 0])
    driver.run({2: 21}, generation=[0, 3, 5])
    driver.generate([3, 0, 2, 5], 8)
    # The prefix of the third, and what it generated, read from its own blocks by another sequence.
    known = driver.tokens[2][:45]
    driver.start(6, known, shared=driver.tables[2][:10])
    driver.run({6: 3}, generation=[2, 0])
    driver.run({6: 2}, generation=[2])
    driver.generate([2, 6], 4)

    for slot, start in ((0, first), (5, second), (2, third), (3, fourth), (6, known)):
        made = driver.tokens[slot]
        assert made == reference(model, start, len(made) - len(start)), f"slot {slot}"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, write_model("llama", folder)


def test_a_resumed_sequence_draws_the_same_tokens(llama: tuple[Path, Any]) -> None:
    start = prompt(9, 5)
    whole = Driver(new_executor(llama[0]))
    whole.start(1, start, temperature=0.9, seed=2**64 - 3)
    whole.run({1: 9})
    whole.generate([1], 30)

    resumed = Driver(new_executor(llama[0]))
    resumed.start(0, prompt(6, 6), temperature=1.0, seed=4)
    resumed.run({0: 6})
    resumed.start(4, whole.tokens[1][:20], temperature=0.9, seed=2**64 - 3)
    resumed.run({4: 20}, generation=[0])
    resumed.generate([0, 4], 19)
    assert resumed.tokens[4] == whole.tokens[1][:40]

    other = Driver(new_executor(llama[0]))
    other.start(1, start, temperature=0.9, seed=1)
    other.run({1: 9})
    other.generate([1], 30)
    assert other.tokens[1] != whole.tokens[1]


def test_copied_blocks_serve_as_the_originals(llama: tuple[Path, Any]) -> None:
    driver = Driver(new_executor(llama[0]))
    start = prompt(8, 7)
    driver.start(0, start)
    driver.run({0: 8})
    copies = [(block, driver.free.pop()) for block in driver.tables[0]]
    driver.start(1, [*start, 11], shared=[copy for _, copy in copies])
    driver.run({1: 1}, generation=[0], copies=copies)
    driver.generate([0, 1], 6)
    assert driver.tokens[1] == reference(llama[1], [*start, 11], 7)
    assert driver.tokens[0] == reference(llama[1], start, 8)


def test_reset_empties_the_slots(llama: tuple[Path, Any]) -> None:
    driver = Driver(new_executor(llama[0]))
    driver.start(0, prompt(3, 8))
    driver.run({0: 3})
    driver.executor.reset()
    with pytest.raises(InvalidRequest, match=r"generation_slots.* got \[0\]"):
        driver.run(generation=[0])
    driver.start(0, prompt(3, 8))
    driver.run({0: 3})
    driver.generate([0], 5)
    assert driver.tokens[0] == reference(llama[1], prompt(3, 8), 6)


def test_a_plan_without_rows_gives_an_empty_result(llama: tuple[Path, Any]) -> None:
    result = Driver(new_executor(llama[0])).run()
    assert len(result.slots) == len(result.token_ids) == 0


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic"])
def test_scaled_positions_reach_further(kind: str, tmp_path: Path) -> None:
    """As far as they are asked to, with the frequencies that transformers has for a sequence of that length."""
    torch.manual_seed(0)
    sizes = SIZES | {"max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **scaled(kind))).eval()
    model.save_pretrained(tmp_path)
    tokens, length = prompt(200, 1), 200
    with torch.inference_mode():
        wanted = model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()
    driver = Driver(new_executor(tmp_path, max_model_len=length))
    for slot, count in enumerate((50, 64, 65, 130, 199)):
        driver.start(slot, tokens[:count])
        driver.run({slot: count})
        assert driver.tokens[slot][-1] == wanted[count - 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(llama: tuple[Path, Any], dtype: str) -> None:
    driver = Driver(new_executor(llama[0], dtype=dtype))
    start = prompt(20, 9)
    driver.start(0, start)
    driver.run({0: 20})
    driver.generate([0], 10)
    logits = llama[1](torch.tensor([driver.tokens[0]])).logits[0, 19:-1]
    made = torch.tensor(driver.tokens[0][20:])
    behind = logits.max(-1).values - logits.gather(-1, made[:, None])[:, 0]
    assert behind.max() < 0.1 * logits.std()


def test_info(llama: tuple[Path, Any]) -> None:
    one, two = new_executor(llama[0]).info, new_executor(llama[0], max_model_len=100, num_blocks=7).info
    assert one.incarnation != two.incarnation
    assert one.fingerprint == two.fingerprint
    assert (one.vocab_size, one.block_size, one.max_batch_size) == (VOCAB, BLOCK_SIZE, 8)
    assert one.device is DeviceKind.CPU
    assert (one.max_model_len, two.max_model_len) == (256, 100)
    assert (one.num_blocks, two.num_blocks) == (NUM_BLOCKS, 7)
    assert one.eos_token_ids == ()


def test_keys_and_values_in_float8(llama: tuple[Path, Any]) -> None:
    """Close to the model, four times as many blocks in the same memory, and another pool to the scheduler."""
    driver = Driver(new_executor(llama[0], kv_cache_dtype="fp8"))
    driver.start(0, prompt(20, 9))
    driver.run({0: 20})
    driver.generate([0], 10)
    logits = llama[1](torch.tensor([driver.tokens[0]])).logits[0, 19:-1]
    made = torch.tensor(driver.tokens[0][20:])
    behind = logits.max(-1).values - logits.gather(-1, made[:, None])[:, 0]
    assert behind.max() < 0.5 * logits.std()
    infos = [
        new_executor(llama[0], num_blocks=None, kv_memory_mib=1, kv_cache_dtype=dtype).info for dtype in ("auto", "fp8")
    ]
    assert infos[1].num_blocks == 4 * infos[0].num_blocks
    assert infos[1].fingerprint != infos[0].fingerprint


def test_a_type_of_cache_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'auto' or 'fp8'"):
        ExecutorConfig.model_validate({"kv_cache_dtype": "int4"})
