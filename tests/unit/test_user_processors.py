"""Logits processors of users in `LLM`: what they see, what they change, and what happens when they fail."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quire import LLM, SamplingParams
from quire.engine.api.errors import InvalidRequest, RequestError, StartupError
from quire.engine.model.features.user_processor import ProcessedRows

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def engine(processors: Any) -> LLM:
    return LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=64, logits_processors=processors)


def test_a_processor_sees_its_rows_alone_and_all_their_tokens() -> None:
    seen: list[tuple[int, list[int], Any]] = []

    def watch(logits: Tensor, rows: ProcessedRows) -> None:
        assert len(logits) == len(rows.arguments) == len(rows.num_prompt)
        for tokens, count, prompt, argument in zip(
            rows.token_ids, rows.num_tokens.tolist(), rows.num_prompt, rows.arguments, strict=True
        ):
            seen.append((prompt, tokens[:count].tolist(), argument))

    with engine({"watch": watch}) as llm:
        named = replace(GREEDY, logits_processors={"watch": {"a": [1, None]}})
        prompts: list[list[int]] = [[5, 6, 7], [8, 9]]
        plain = llm.generate(prompts, GREEDY)
        assert not seen
        watched = llm.generate(prompts, named)
    assert [each.token_ids for each in watched] == [each.token_ids for each in plain]
    expected = [
        (len(prompt), prompt + list(answer.token_ids[:count]), {"a": [1, None]})
        for prompt, answer in zip(prompts, plain, strict=True)
        for count in range(12)
    ]
    assert sorted(map(str, seen)) == sorted(map(str, expected))


def test_a_processor_changes_logits_of_its_rows() -> None:
    def only(logits: Tensor, rows: ProcessedRows) -> None:
        for row, token in enumerate(rows.arguments):
            kept = logits[row, token].clone()
            logits[row] = -torch.inf
            logits[row, token] = kept

    with engine({"only": only}) as llm:
        answer = llm.generate([[5, 6]], replace(GREEDY, logits_processors={"only": 77}))[0]
        assert set(answer.token_ids) == {77}
        assert set(llm.generate([[5, 6]], GREEDY)[0].token_ids) != {77}
        # What forbids tokens comes behind it.
        other = replace(GREEDY, logits_processors={"only": 77}, bad_words_ids=((77,),))
        assert 77 not in llm.generate([[5, 6]], other)[0].token_ids


def test_a_processor_that_raises_ends_its_request_alone() -> None:
    def broken(logits: Tensor, rows: ProcessedRows) -> None:
        raise ZeroDivisionError("no such luck")

    with engine({"broken": broken}) as llm:
        plain = llm.generate([[5, 6]], GREEDY)[0]
        stream = llm.generate_stream([5, 6], replace(GREEDY, max_tokens=200))
        first = next(stream)
        with pytest.raises(RequestError, match="logits processor 'broken' has failed: ZeroDivisionError"):
            llm.generate([[5, 6]], replace(GREEDY, logits_processors={"broken": None}))
        token_ids = [*first.token_ids, *(token for piece in stream for token in piece.token_ids)]
        assert tuple(token_ids[:12]) == plain.token_ids
        assert llm.generate([[5, 6]], GREEDY)[0].token_ids == plain.token_ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"other": 1}, "sampling.logits_processors: must be known, got 'other'"),
        ({"known": {1, 2}}, "sampling.logits_processors: must be a mapping from names to values of JSON"),
        ({"known": float("nan")}, "sampling.logits_processors: must be a mapping from names to values of JSON"),
        ({"known": "x" * 70_000}, "sampling.logits_processors: must be at most 65536 bytes of JSON, got 70002"),
        ({f"p{index}": 1 for index in range(9)}, "sampling.logits_processors: must be at most 8 processors, got 9"),
        ((("known", "{"),), r"sampling.logits_processors\[known\]: must be valid JSON"),
        (("known",), "sampling.logits_processors: must be a mapping from names to values of JSON"),
    ],
)
def test_refusals(llm: LLM, given: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        llm.generate([[5]], replace(GREEDY, logits_processors=given))


@pytest.fixture(scope="module")
def llm() -> Any:
    with engine({"known": lambda logits, rows: None}) as llm:
        yield llm


def test_a_name_that_no_package_offers() -> None:
    with pytest.raises(StartupError, match=r"logits_processors: must be .*, got 'MISSING'"):
        engine(["MISSING"])
