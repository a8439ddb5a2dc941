"""Log-probabilities of prompts: against a float32 log-softmax of `transformers`, however the prompt is computed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.config import SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.open_request import OpenRequest
from support.models import load_reference
from support.prompts import random_prompts

NUM_TOP = 3
SCORED = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, prompt_logprobs=NUM_TOP)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [*random_prompts(5, 90, 2048, seed=4), [7], [7, 8]]


@pytest.fixture(scope="module")
def wanted(prompts: list[list[int]]) -> list[torch.Tensor]:
    """Log-softmax behind every token but the last, [num_prompt - 1, vocab_size] each."""
    model = load_reference(DEMO_MODEL)
    with torch.inference_mode():
        return [model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1) for prompt in prompts]


def engine(**scheduler: Any) -> LLM:
    settings = SchedulerConfig(**scheduler)
    return LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=256, scheduler=settings)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with engine() as llm:
        yield llm


def check(answer: Completion, prompt: list[int], wanted: torch.Tensor) -> None:
    assert len(answer.prompt_logprobs) == len(prompt) - 1
    for token, found, row in zip(prompt[1:], answer.prompt_logprobs, wanted, strict=True):
        assert found.logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert found.top_logprobs == pytest.approx(row.topk(NUM_TOP).values.tolist(), abs=1e-4)
        assert found.rank is not None
        # Rounding may exchange neighbours.
        assert (row > row[token] + 1e-4).sum() < found.rank <= (row >= row[token] - 1e-4).sum()


def test_scores_are_those_of_transformers(llm: LLM, prompts: list[list[int]], wanted: list[torch.Tensor]) -> None:
    for answer, prompt, rows in zip(llm.generate(prompts, SCORED), prompts, wanted, strict=True):
        check(answer, prompt, rows)


@pytest.mark.parametrize("max_num_tokens", [7, 33])
def test_chunks_change_nothing(prompts: list[list[int]], wanted: list[torch.Tensor], max_num_tokens: int) -> None:
    with engine(max_num_tokens=max_num_tokens) as llm:
        for answer, prompt, rows in zip(llm.generate(prompts, SCORED), prompts, wanted, strict=True):
            check(answer, prompt, rows)


def test_a_cached_prompt_is_scored_whole_and_left_in_the_cache(llm: LLM) -> None:
    prompt = random_prompts(5, 90, 2048, seed=40)[-1]
    first, again = (llm.generate([prompt], SCORED)[0] for _ in range(2))
    assert again.prompt_logprobs == first.prompt_logprobs
    assert again.usage is not None
    assert again.usage.cached_tokens == 0
    plain = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))[0]
    assert plain.usage is not None
    assert plain.usage.cached_tokens > 0
    assert plain.token_ids == first.token_ids


def test_scores_do_not_change_what_is_sampled(llm: LLM, prompts: list[list[int]]) -> None:
    plain = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    assert [each.token_ids for each in plain] == [each.token_ids for each in llm.generate(prompts, SCORED)]
    assert not any(each.prompt_logprobs for each in plain)


def test_a_prompt_alone(llm: LLM, prompts: list[list[int]], wanted: list[torch.Tensor]) -> None:
    alone = SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=NUM_TOP)
    for answer, prompt, rows in zip(llm.generate(prompts, alone), prompts, wanted, strict=True):
        check(answer, prompt, rows)
        assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), FinishReason.LENGTH)
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.generated_tokens) == (len(prompt), 0)


def test_the_first_piece_of_a_stream_has_them(llm: LLM, prompts: list[list[int]], wanted: list[torch.Tensor]) -> None:
    first, *others = llm.generate_stream(prompts[0], SCORED)
    check(first, prompts[0], wanted[0])
    assert not any(each.prompt_logprobs for each in others)


def test_what_comes_again_is_not_told_again() -> None:
    request = OpenRequest(0, "a", torch.zeros(4, dtype=torch.int32).numpy(), SCORED)
    entries = [TokenLogprobs(-float(position), (), ()) for position in (1, 2, 3)]
    for position in (1, 2, 1, 2, 3):
        request.push_prompt_logprobs(position, entries[position - 1])
    assert request.take_prompt_logprobs() == tuple(entries)
    request.push_prompt_logprobs(1, entries[0])
    assert request.take_prompt_logprobs() == ()


def test_a_pause_changes_nothing(prompts: list[list[int]], wanted: list[torch.Tensor]) -> None:
    """Paused sequences compute their prompts again."""
    long = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True, prompt_logprobs=NUM_TOP)
    policy = SchedulerConfig(capacity_policy="MAX_UTILIZATION")
    with LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=24, scheduler=policy) as llm:
        answers = llm.generate(prompts, long)
        assert llm.statistics().num_pauses > 0
    for answer, prompt, rows in zip(answers, prompts, wanted, strict=True):
        check(answer, prompt, rows)
