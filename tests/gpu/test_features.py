"""What requests ask of sampling and of prompts is done on the GPU as on the CPU, and waits for nobody."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quire import LLM, SamplingParams
from quire.engine.api.pooling import Pooling
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.config import SchedulerConfig
from quire.engine.grammar.store import GrammarStore
from quire.engine.model.features.processors import SlotShape, logits_processors
from quire.engine.model.features.user_processor import ProcessedRows
from quire.engine.model.slots import Slots
from quire.engine.step import StepPlan
from quire.kernels.reference import TORCH_SUITE
from support.prompts import random_prompts
from support.starts import sequence_start

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
WISHES: dict[str, dict[str, Any]] = {
    "bias": {"logit_bias": {265: 3.0, 16: -100}},
    "allowed": {"allowed_token_ids": (5, 6, 7, 300, 301)},
    "words": {"bad_words_ids": ((265,), (6, 7), (300, 301, 302))},
    "ngrams": {"no_repeat_ngram_size": 2},
    "min_tokens": {"min_tokens": 20, "stop_token_ids": tuple(range(20, 60))},
    "thinking": {"thinking": ThinkingBudget(6, (), (90, 91))},
    "user": {"logits_processors": {"forbid": 16}},
    "typical": {"typical_p": 0.4, "temperature": 0.8, "seed": 3},
}


def forbid(logits: torch.Tensor, rows: ProcessedRows) -> None:
    """Of each row the token that its request names, and its newest one."""
    newest = rows.token_ids.gather(1, rows.num_tokens.unsqueeze(1) - 1).long()
    logits.scatter_(1, newest, -torch.inf)
    for row, token in enumerate(rows.arguments):
        logits[row, token].fill_(-torch.inf)


def engine(device: str) -> LLM:
    # Chunks of prompts, and steps of context beside generation.
    chunked = SchedulerConfig(max_num_tokens=64)
    return LLM(device=device, dtype="float32", num_blocks=512, scheduler=chunked, logits_processors={"forbid": forbid})


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[LLM, LLM]]:
    with engine("cpu") as cpu, engine("cuda") as gpu:
        yield cpu, gpu


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return random_prompts(6, 90, 2048, seed=5)


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES.keys())
def test_tokens_are_those_of_the_cpu(engines: tuple[LLM, LLM], prompts: list[list[int]], wish: dict[str, Any]) -> None:
    params = replace(GREEDY, **wish)
    cpu, gpu = ([each.token_ids for each in llm.generate(prompts, params)] for llm in engines)
    plain = [each.token_ids for each in engines[1].generate(prompts, GREEDY)]
    assert gpu == cpu
    assert gpu != plain, "it does something"


def test_everything_at_once(engines: tuple[LLM, LLM], prompts: list[list[int]]) -> None:
    wishes = {name: value for wish in WISHES.values() for name, value in wish.items()} | {"allowed_token_ids": ()}
    params = replace(GREEDY, **wishes, frequency_penalty=0.5, logprobs=2, prompt_logprobs=2)
    cpu, gpu = (llm.generate(prompts, params) for llm in engines)
    assert [each.token_ids for each in gpu] == [each.token_ids for each in cpu]


def test_scores_of_prompts(engines: tuple[LLM, LLM], prompts: list[list[int]]) -> None:
    params = replace(GREEDY, prompt_logprobs=3)
    for cpu, gpu in zip(*(llm.generate(prompts, params) for llm in engines), strict=True):
        assert gpu.token_ids == cpu.token_ids
        left, right = ([each.logprob for each in answer.prompt_logprobs] for answer in (cpu, gpu))
        np.testing.assert_allclose(left, right, atol=2e-3)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST, Pooling.CLS])
def test_embeddings(engines: tuple[LLM, LLM], prompts: list[list[int]], pooling: Pooling) -> None:
    for cpu, gpu in zip(*(llm.embed(prompts, pooling) for llm in engines), strict=True):
        np.testing.assert_allclose(cpu.values, gpu.values, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_feature_waits_for_the_device() -> None:
    """But structured output, which must."""
    shape = SlotShape(2, 64, 100, (1,), DEVICE)
    processors = logits_processors(shape, TORCH_SUITE, GrammarStore(_no_vocabulary), {"forbid": forbid})
    slots = Slots(
        num_slots=2, max_model_len=64, block_size=64, num_blocks=2, vocab_size=100, device=DEVICE,
        processors=processors,
    )  # fmt: skip
    wishes = {name: value for wish in WISHES.values() for name, value in wish.items()}
    wishes |= {
        "allowed_token_ids": (5, 6),
        "bad_words_ids": ((5,), (6, 7)),
        "stop_token_ids": (20,),
        "logit_bias": {5: 1},
    }
    starts = tuple(sequence_start(slot, [1, 2, 2], [slot], num_prompt=1, **wishes) for slot in (0, 1))
    logits, tokens = torch.zeros(2, 100, device=DEVICE), torch.tensor([7, 2], device=DEVICE)

    def step(starts: Any, context: list[int], generation: list[int]) -> None:
        none, lengths = np.empty(0, np.int32), np.full(len(context), 3, np.int32)
        batch = slots.apply(
            StepPlan(
                1,
                np.empty((0, 2), np.int32),
                starts,
                none,
                none,
                np.array(context, np.int32),
                lengths,
                np.array(generation, np.int32),
            )
        )
        assert len(batch.processors) >= 6
        for processor, rows in batch.processors:
            processor.process(logits, rows)
        slots.advance(batch, tokens)

    step(starts, [0, 1], [])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step((), [], [0, 1])
        step(starts, [0, 1], [])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _no_vocabulary() -> Any:
    raise AssertionError("nobody asks for a structure here")
