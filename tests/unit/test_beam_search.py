"""Beam search in one process: the answers of transformers, and the rules by themselves."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from transformers import PreTrainedModel

from quire import LLM, BeamSearchParams, SamplingParams
from quire.engine.api.beam_search import EarlyStopping
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import PromptParams, RequestOptions
from quire.engine.beam_search import BeamSearch
from quire.engine.demo_model import DEMO_MODEL
from support.models import EOS_TOKEN_IDS, VOCAB_SIZE, load_reference, reference_beams, write_model
from support.prompts import random_prompts


@dataclass(frozen=True, slots=True)
class Case:
    """A model, what transformers makes of it, and prompts. Ordinary tokens end its answers, so that they vary."""

    llm: LLM
    reference: PreTrainedModel
    prompts: list[list[int]]
    ends: tuple[int, ...]


@pytest.fixture(scope="module", params=["demo", "llama"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    is_demo = request.param == "demo"
    folder = DEMO_MODEL if is_demo else write_model(tmp_path_factory.mktemp("model"), "llama")
    with LLM(str(folder), num_blocks=256, max_batch_size=8, device="cpu", dtype="float32") as llm:
        texts = ["def mean(values):\n", "import os\nimport ", "class Point:\n    def ", "for index in range("]
        prompts = [llm.tokenizer.encode(text).tolist() for text in texts]
        newlines = tuple(token for token in range(256) if "\n" in llm.tokenizer.decode([token]))
        if is_demo:
            yield Case(llm, load_reference(folder), prompts, newlines[:2])
        else:
            yield Case(llm, load_reference(folder), random_prompts(4, 40, VOCAB_SIZE), EOS_TOKEN_IDS[:4])


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("length_penalty", "early_stopping"), [(1.0, False), (0.0, "never"), (2.0, "never"), (-1.0, False), (1.0, True)]
)
def test_answers_are_those_of_transformers(
    case: Case, width: int, length_penalty: float, early_stopping: bool | str
) -> None:
    how: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    params = BeamSearchParams(width, max_tokens=20, ignore_eos=True, stop_token_ids=case.ends, **how)
    for prompt, answers in zip(case.prompts, case.llm.beam_search(case.prompts, params), strict=True):
        expected = reference_beams(case.reference, prompt, width, 20, eos_token_ids=case.ends, **how)
        assert [answer.token_ids for answer in answers] == [beam.token_ids for beam in expected]
        for answer, beam in zip(answers, expected, strict=True):
            assert answer.cumulative_logprob is not None
            score = answer.cumulative_logprob / len(answer.token_ids) ** length_penalty
            assert score == pytest.approx(beam.score, abs=1e-4, rel=1e-4)
            ended = answer.token_ids[-1] in case.ends
            assert answer.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)


def test_the_models_own_end_tokens(case: Case) -> None:
    expected_ends = case.reference.generation_config.eos_token_id
    ends = [expected_ends] if isinstance(expected_ends, int) else expected_ends
    params = BeamSearchParams(4, max_tokens=60)
    for prompt, answers in zip(case.prompts, case.llm.beam_search(case.prompts, params), strict=True):
        expected = reference_beams(case.reference, prompt, 4, 60, eos_token_ids=ends)
        assert [answer.token_ids for answer in answers] == [beam.token_ids for beam in expected]


def test_what_an_answer_has(case: Case) -> None:
    params = BeamSearchParams(3, max_tokens=6, ignore_eos=True, logprobs=2)
    (answers,) = case.llm.beam_search([case.prompts[0]], params)
    for answer in answers:
        assert answer.text == case.llm.tokenizer.decode(answer.token_ids)
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.generated_tokens) == (len(case.prompts[0]), 6)
        assert answer.cumulative_logprob == pytest.approx(sum(each.logprob for each in answer.logprobs))
        assert [len(each.top_token_ids) for each in answer.logprobs] == [2] * 6
        for token_id, each in zip(answer.token_ids, answer.logprobs, strict=True):
            if token_id in each.top_token_ids:
                assert each.logprob == each.top_logprobs[each.top_token_ids.index(token_id)]
    (plain,) = case.llm.beam_search([case.prompts[0]], BeamSearchParams(3, max_tokens=6, ignore_eos=True))
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in answers]
    assert not any(answer.logprobs for answer in plain)


def test_one_beam_is_greedy(case: Case) -> None:
    params = BeamSearchParams(1, max_tokens=12, stop_token_ids=case.ends)
    greedy = SamplingParams(temperature=0, max_tokens=12, stop_token_ids=case.ends)
    beams = case.llm.beam_search(case.prompts, params)
    expected = case.llm.generate(case.prompts, greedy)
    assert [(each.text, each.token_ids, each.matched_stop) for (each,) in beams] == [
        (each.text, each.token_ids, each.matched_stop) for each in expected
    ]


def test_steps_find_the_beams_blocks_in_the_cache(case: Case) -> None:
    prompt = [7 + index % 90 for index in range(300)]
    before = case.llm.statistics()
    (answers,) = case.llm.beam_search([prompt], BeamSearchParams(4, max_tokens=24, ignore_eos=True))
    after = case.llm.statistics()
    asked = after.num_context_tokens - before.num_context_tokens
    found = after.num_reused_tokens + after.num_copied_tokens - before.num_reused_tokens - before.num_copied_tokens
    assert asked >= (1 + 4 * 23) * 300
    assert asked - found <= 300 + 4 * 23 * 16, "of each beam at most the last block"
    assert len(answers) == 4
    assert (after.num_running, after.num_waiting) == (0, 0)


def test_a_prompt_may_be_cut_from_the_left(case: Case) -> None:
    prompt = [7 + index % 90 for index in range(50)]
    params = BeamSearchParams(2, max_tokens=5, ignore_eos=True)
    cut = case.llm.beam_search([prompt], params, RequestOptions(prompt=PromptParams(truncate_prompt_tokens=9)))
    assert [each.token_ids for each in cut[0]] == [
        each.token_ids for each in case.llm.beam_search([prompt[-9:]], params)[0]
    ]


def test_a_deadline_ends_a_search_with_what_it_has(case: Case) -> None:
    params = BeamSearchParams(2, max_tokens=900, ignore_eos=True, early_stopping=EarlyStopping.NEVER)
    (answers,) = case.llm.beam_search([case.prompts[0]], params, RequestOptions(deadline_ms=30))
    assert {answer.finish_reason for answer in answers} == {FinishReason.ABORTED}
    assert all(len(answer.token_ids) < 900 for answer in answers)
    assert [answer.index for answer in answers] == list(range(len(answers)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"beam_width": 0}, "sampling.beam_width: must be 1 to 16, got 0"),
        ({"beam_width": 17}, "sampling.beam_width: must be 1 to 16, got 17"),
        ({"beam_width": 2.0}, "sampling.beam_width: must be an integer, got 2.0"),
        ({"length_penalty": "1"}, "sampling.length_penalty: must be a number, got '1'"),
        ({"length_penalty": float("nan")}, "sampling.length_penalty: must be -10 to 10, got nan"),
        (
            {"early_stopping": "soon"},
            "sampling.early_stopping: must be an EarlyStopping, false, true or 'never', got 'soon'",
        ),
        ({"early_stopping": 1}, "sampling.early_stopping: must be an EarlyStopping, false, true or 'never', got 1"),
        ({"max_tokens": 0}, "sampling.max_tokens: must be at least 1 in a beam search, got 0"),
        ({"max_tokens": "5"}, "sampling.max_tokens: must be an integer, got '5'"),
        ({"stop_token_ids": (1.5,)}, "sampling.stop_token_ids: must be a flat list of integers, got (1.5,)"),
        ({"stop_token_ids": 7}, "sampling.stop_token_ids: must be a flat list of integers, got 7"),
        ({"logprobs": 21}, "sampling.logprobs: must be 0 to 20, got 21"),
        ({"ignore_eos": 1}, "sampling.ignore_eos: must be true or false, got 1"),
    ],
)
def test_what_is_out_of_range_is_refused(case: Case, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        case.llm.beam_search("a", BeamSearchParams(**params))
    assert str(caught.value) == message


def test_one_refused_prompt_ends_the_others(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="token_ids"):
        case.llm.beam_search([[1, 2], [3, 4], []], BeamSearchParams(max_tokens=400, ignore_eos=True))
    deadline = time.monotonic() + 60
    while case.llm.statistics().num_running or case.llm.statistics().num_waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_cumulative_logprob_of_any_answer(case: Case) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=0)
    (answer,) = case.llm.generate([case.prompts[0]], params)
    assert answer.cumulative_logprob == pytest.approx(sum(each.logprob for each in answer.logprobs))
    pieces = list(case.llm.generate_stream(case.prompts[0], params))
    assert [piece.cumulative_logprob for piece in pieces] == [None] * (len(pieces) - 1) + [answer.cumulative_logprob]
    (plain,) = case.llm.generate([case.prompts[0]], replace(params, logprobs=None))
    assert plain.cumulative_logprob is None


# A model over four tokens, of which 3 ends, whose next token depends on the last one only.
NEXT: dict[int | None, dict[int, float]] = {
    None: {0: 0.5, 1: 0.4, 2: 0.06, 3: 0.04},
    0: {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.1},
    1: {0: 0.02, 1: 0.03, 2: 0.05, 3: 0.9},
    2: {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25},
}


def searched(width: int, max_tokens: int = 4, **how: Any) -> BeamSearch:
    """A search to its end."""
    search = BeamSearch(BeamSearchParams(width, **how), max_tokens, (3,))
    while not search.is_over:
        search.advance([candidates(beam.token_ids, search.num_candidates) for beam in search.live])
    return search


def candidates(token_ids: tuple[int, ...], most: int) -> TokenLogprobs:
    ranked = sorted(NEXT[token_ids[-1] if token_ids else None].items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    return TokenLogprobs(0.0, tuple(token for token, _ in ranked), tuple(math.log(mass) for _, mass in ranked))


def every_answer(max_tokens: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Each with its probability."""
    for length in range(1, max_tokens + 1):
        for ids in itertools.product(range(4), repeat=length):
            if 3 not in ids[:-1] and (ids[-1] == 3 or length == max_tokens):
                yield math.prod(NEXT[last][token] for last, token in zip((None, *ids), ids, strict=False)), ids


def test_enough_beams_find_the_most_likely_answers() -> None:
    found = searched(16, max_tokens=3, length_penalty=0.0, early_stopping="never").answers
    expected = sorted((probability for probability, _ in every_answer(3)), reverse=True)[:16]
    assert [math.exp(beam.cumulative_logprob) for beam in found] == pytest.approx(expected)
    assert len({beam.token_ids for beam in found}) == 16
    assert found[0].token_ids == (1, 3)


def test_more_beams_see_what_greedy_does_not() -> None:
    assert searched(1).answers[0].token_ids == (0, 0, 0, 0)
    assert searched(2).answers[0].token_ids == (1, 3)


def test_length_penalty_and_early_stopping() -> None:
    assert len(searched(2, length_penalty=-2.0).answers[0].token_ids) < len(
        searched(2, length_penalty=6.0, early_stopping="never").answers[0].token_ids
    )
    lengths = [searched(2, 12, length_penalty=6.0, early_stopping=when).num_tokens for when in (True, False, "never")]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2] == 12


def test_an_aborted_search_gives_what_it_has() -> None:
    search = BeamSearch(BeamSearchParams(3), 8, (3,))
    for _ in range(2):
        search.advance([candidates(beam.token_ids, 4) for beam in search.live])
    search.abort()
    assert search.is_over
    reasons = {beam.token_ids: beam.finish_reason for beam in search.answers}
    assert reasons[(1, 3)] is FinishReason.STOP
    assert list(reasons.values()).count(FinishReason.ABORTED) == 2


def test_what_ends_may_be_all_that_is_likely() -> None:
    """Nothing goes on: the search ends with fewer answers."""
    search = BeamSearch(BeamSearchParams(2, stop_token_ids=(0, 1, 2)), 8, (3,))
    search.advance([candidates((), 4)])
    assert search.is_over
    assert [beam.token_ids for beam in search.answers] == [(0,), (1,)]
