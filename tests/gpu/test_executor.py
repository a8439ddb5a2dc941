"""The executor on a GPU: against `transformers` in float32, against itself without graphs, against the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
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

from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.engine.model.model_engine import ModelEngine
from quire.engine.model.placement import place
from quire.engine.model.slots import Slots
from quire.engine.resources.kv_cache_spec import MAX_GROUPS
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.weights.checkpoint import read_checkpoint
from support.starts import sequence_start, tables_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

VOCAB, BLOCKS_PER_SLOT = 512, 40
NUM_BLOCKS = MAX_GROUPS * 2 * BLOCKS_PER_SLOT
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128, "max_position_embeddings": 640,
    "initializer_range": 0.05, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
# Heads that FlashInfer would not have to compile anything for.
SMALL = SIZES | {"head_dim": 32, "pad_token_id": None}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with heads of 96": lambda: LlamaForCausalLM(LlamaConfig(**SIZES | {"head_dim": 96})),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=100)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=100)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SMALL, sliding_window=100, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        )
    ),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SMALL)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
    "glm4": lambda: Glm4ForCausalLM(Glm4Config(**SMALL)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, residual_multiplier=0.5, attention_multiplier=0.2)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=96)
    ),
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SMALL, num_local_experts=8, sliding_window=100)),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **SMALL | {"num_key_value_heads": 4, "head_dim": 64},
            q_lora_rank=64,
            moe_intermediate_size=96,
            n_routed_experts=16,
            num_experts_per_tok=4,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
        )
    ),
}
PARAMS = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)


class Driver:
    """Steps of two sequences; keeps the logits of every sampling row."""

    def __init__(self, folder: Path, cuda_graphs: bool) -> None:
        config = ExecutorConfig(
            model=str(folder), dtype="bfloat16", device="cuda", num_blocks=NUM_BLOCKS, max_batch_size=2,
            kernels="cuda", cuda_graphs=cuda_graphs,
        )  # fmt: skip
        checkpoint = read_checkpoint(folder)
        self.engine = ModelEngine(config, checkpoint, place(config, checkpoint))
        self.slots = Slots(
            num_slots=2, max_model_len=640, block_size=16, num_blocks=NUM_BLOCKS, vocab_size=VOCAB,
            device=self.engine.device, groups=self.engine.layout.groups,
        )  # fmt: skip
        self.tokens: dict[int, list[int]] = {}
        self.logits: dict[int, list[torch.Tensor]] = {0: [], 1: []}
        self.starts: list[SequenceStart] = []

    def start(self, slot: int, tokens: list[int]) -> None:
        self.tokens[slot] = tokens
        tables = tables_of(range(slot, 2 * BLOCKS_PER_SLOT, 2), len(self.engine.layout.groups))
        self.starts.append(sequence_start(slot, tokens, tables))

    @torch.inference_mode()
    def run(self, context: dict[int, int], generation: list[int]) -> None:
        def ints(values: Any) -> Any:
            return np.array(list(values), np.int32)

        plan = StepPlan(
            step=1, copies=np.empty((0, 2), np.int32), starts=tuple(self.starts), append_slots=ints([]),
            append_blocks=ints([]), context_slots=ints(context), context_tokens=ints(context.values()),
            generation_slots=ints(generation),
        )  # fmt: skip
        self.starts = []
        batch = self.slots.apply(plan)
        logits = self.engine.forward(batch)
        tokens = logits.argmax(-1)
        self.slots.advance(batch, tokens)
        for slot, row, token in zip(batch.sampling_slots.tolist(), logits.cpu(), tokens.tolist(), strict=True):
            self.logits[slot].append(row)
            self.tokens[slot].append(token)


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_in_float32(tmp_path: Path, name: str, cuda_graphs: bool) -> None:
    """Within rounding, as their own bfloat16 is: prefill whole and in chunks, beside generation, and that alone."""
    torch.manual_seed(0)
    MODELS[name]().to(torch.bfloat16).save_pretrained(tmp_path)
    random = np.random.default_rng(1)
    driver = Driver(tmp_path, cuda_graphs)
    driver.start(0, random.integers(0, VOCAB, 300).tolist())
    driver.run({0: 120}, [])
    driver.run({0: 180}, [])
    driver.start(1, random.integers(0, VOCAB, 40).tolist())
    driver.run({1: 40}, [0])
    for _ in range(20):
        driver.run({}, [0, 1])
    driver.run({}, [1])
    # Read anew: a model that was cast has its rotary frequencies rounded.
    rounded, exact = (
        logits_of(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).cuda(), driver)
        for dtype in (torch.bfloat16, torch.float32)
    )
    for slot, rows in driver.logits.items():
        ours, theirs = (error(found, exact[slot]) for found in (torch.stack(rows), rounded[slot]))
        assert ours < 1.5 * theirs + 1e-3, f"slot {slot}: relative error {ours:.4f}, of transformers {theirs:.4f}"


def logits_of(model: Any, driver: Driver) -> dict[int, torch.Tensor]:
    """What `transformers` computes for the rows that sampled, in the model's type."""
    found = {}
    for slot, rows in driver.logits.items():
        with torch.inference_mode():
            logits = model(torch.tensor([driver.tokens[slot]], device="cuda")).logits[0].float().cpu()
        found[slot] = logits[-len(rows) - 1 : -1]
    return found


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the middle row: where two experts are nearly as good, rounding decides, and a few rows are far off."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).median())


def test_the_demo_model_writes_what_it_writes_on_a_cpu() -> None:
    """In float32, token for token, greedy and sampled."""
    prompts = ["def fibonacci(n):", "class Stack:\n", "import os\n"]
    sampled = SamplingParams(temperature=0.9, top_p=0.9, top_k=40, seed=5, max_tokens=40, ignore_eos=True)
    texts = []
    for device in ("cuda", "cpu"):
        with LLM(device=device, dtype="float32", num_blocks=200, max_batch_size=8) as llm:
            texts.append([each.token_ids for params in (PARAMS, sampled) for each in llm.generate(prompts, params)])
    assert texts[0] == texts[1]


def test_a_card_too_small_is_a_message_with_the_numbers() -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(StartupError, match=r"does not fit on cuda, where [0-9.]+ of [0-9.]+ GiB are free"):
            LLM(device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_pool_takes_what_memory_is_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    MODELS["llama"]().to(torch.bfloat16).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((DEMO_MODEL / name).read_bytes())
    with LLM(str(tmp_path), kv_memory_fraction=0.3, max_batch_size=64) as llm:
        statistics = llm.statistics()
        _, total = torch.cuda.mem_get_info()
        taken = statistics.num_blocks * 16 * 3 * 2 * 128 * 2
        assert 0.15 * total < taken < 0.3 * total
        answers = llm.generate([[5 + i, 6, 7] for i in range(100)], PARAMS)
    assert all(len(answer.token_ids) == 80 for answer in answers)
