"""Structured output with two steps in flight: masks are made of tokens that the host reads behind the next launch."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jsonschema
import pytest

from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from support.schemas import schemas

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

PROMPT = "def mean(values):\n"
DRAWN = SamplingParams(temperature=1.0, seed=3, max_tokens=150)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model=str(DEMO_MODEL), device="cuda", max_batch_size=48) as llm:
        yield llm


def test_sixty_schemas_beside_free_texts(llm: LLM) -> None:
    corpus = schemas(60)
    held = [
        replace(DRAWN, seed=index, structured_output=StructuredOutput(json_schema=json.dumps(schema)))
        for index, schema in enumerate(corpus)
    ]
    free = [replace(DRAWN, seed=index, ignore_eos=True) for index in range(20)]

    def answer(params: SamplingParams) -> Completion:
        return llm.generate(PROMPT, params)[0]

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(answer, [*held, *free]))
    assert all(len(each.token_ids) == DRAWN.max_tokens for each in answers[len(held) :])
    ended = [pair for pair in zip(corpus, answers, strict=False) if pair[1].finish_reason is FinishReason.STOP]
    assert len(ended) > 45
    for schema, answered in ended:
        jsonschema.Draft202012Validator(schema).validate(json.loads(answered.text))


@pytest.mark.parametrize("num_rows", [1, 2, 15, 16, 17, 48])
def test_any_number_of_rows(llm: LLM, num_rows: int) -> None:
    params = replace(DRAWN, logprobs=2, structured_output=StructuredOutput(regex="[a-z]{5,20}=[0-9]{3}"))
    answers = llm.generate([PROMPT] * num_rows, params)
    assert all(re.fullmatch("[a-z]{5,20}=[0-9]{3}", answer.text) for answer in answers)
    assert all(len(answer.logprobs) == len(answer.token_ids) for answer in answers)
