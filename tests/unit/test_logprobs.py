"""Log-probabilities in the engine: against `transformers`, across pauses and held text; and that others pay nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.limits import MAX_INT32
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor
from quire.engine.llm import LLM
from quire.engine.logprobs import pack
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.step import SequenceStart, StepPlan, StepResult
from quire.engine.text.pieces import Pieces
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import scheduler_pb2
from quire.services.common import wire
from support.models import load_reference
from support.operations import Operations
from support.prompts import random_prompts
from support.starts import sequence_start

GREEDY = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model() -> Any:
    return load_reference(DEMO_MODEL)


def log_softmax(model: Any, prompt: list[int], answer: Completion) -> torch.Tensor:
    """Of the logits behind which each of the answer's tokens was sampled."""
    ids = torch.tensor([[*prompt, *answer.token_ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
    found: torch.Tensor = logits.float().log_softmax(-1)
    return found


def check(model: Any, prompt: list[int], answer: Completion, num_top: int) -> None:
    wanted = log_softmax(model, prompt, answer)
    assert len(answer.logprobs) == len(answer.token_ids)
    for row, token_id, found in zip(wanted, answer.token_ids, answer.logprobs, strict=True):
        assert found.logprob == pytest.approx(row[token_id].item(), abs=TOLERANCE)
        assert len(found.top_token_ids) == len(found.top_logprobs) == num_top
        theirs = row.topk(num_top).values
        assert list(found.top_logprobs) == pytest.approx(theirs.tolist(), abs=TOLERANCE)
        assert list(found.top_logprobs) == pytest.approx(row[list(found.top_token_ids)].tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_they_are_those_of_transformers_whatever_chose_the_token(model: Any, kernels: str) -> None:
    """Of raw logits: neither penalties nor temperature nor filters show, and every request gets its own number."""
    sampled = replace(GREEDY, temperature=1.5, top_p=0.9, top_k=30, seed=3)
    penalized = replace(GREEDY, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.5)
    asked = [
        replace(params, logprobs=num_top)
        for params, num_top in ((GREEDY, 3), (sampled, 20), (penalized, 5), (GREEDY, 0), (GREEDY, None))
    ]
    prompts = random_prompts(6, 60, 2048, seed=9)[: len(asked)]
    with LLM(dtype="float32", device="cpu", kernels=kernels, num_threads=1, num_blocks=256) as llm:
        streams = [llm.generate_stream(prompt, params) for prompt, params in zip(prompts, asked, strict=True)]
        # All together, so that they share steps.
        first = [next(stream) for stream in streams]
        answers = [join([piece, *stream]) for piece, stream in zip(first, streams, strict=True)]
    assert answers[-1].logprobs == ()
    for prompt, params, answer in zip(prompts, asked, answers, strict=True):
        if params.logprobs is not None:
            check(model, prompt, answer, params.logprobs)
    # The likeliest token of a greedy request is the one that it took.
    assert all(each.top_logprobs[0] == each.logprob for each in answers[0].logprobs)
    assert any(each.top_logprobs[0] > each.logprob for each in answers[2].logprobs), "penalties chose another"


def test_pauses_neither_repeat_nor_lose_any() -> None:
    prompts = random_prompts(6, 60, 2048, seed=9)
    params = replace(GREEDY, max_tokens=100, logprobs=2)
    policy, found = SchedulerConfig(capacity_policy="MAX_UTILIZATION"), []
    for num_blocks in (512, 20):
        with LLM(dtype="float32", num_threads=1, device="cpu", num_blocks=num_blocks, scheduler=policy) as llm:
            found.append(llm.generate(prompts, params))
            num_pauses = llm.statistics().num_pauses
    assert num_pauses > 0
    for calm, paused in zip(*found, strict=True):
        assert calm.token_ids == paused.token_ids
        assert [each.logprob for each in calm.logprobs] == pytest.approx(
            [each.logprob for each in paused.logprobs], abs=TOLERANCE
        )


async def pieces_of(text: str, stop: tuple[str, ...], at_once: int) -> list[Completion]:
    """What a request's client gets where the model says `text`, so many tokens at a time."""
    tokenizer = Tokenizer.load(DEMO_MODEL)
    token_ids = tokenizer.encode(text)
    request = OpenRequest(1, "", token_ids[:1], SamplingParams(stop=stop, logprobs=1))
    stream, found = Pieces(request, tokenizer).follow(), []
    for index, token_id in enumerate(token_ids.tolist()):
        request.push(token_id)
        request.push_logprobs(TokenLogprobs(-float(index), (token_id,), (0.0,)))
        if (index + 1) % at_once == 0:
            found.append(await anext(stream))
            if found[-1].finish_reason is not None:
                return found
    request.end(Finish(FinishReason.LENGTH))
    return [*found, await anext(stream)]


@pytest.mark.parametrize("at_once", [1, 2, 1000])
@pytest.mark.parametrize("stop", [(), ("one two three!",), ("one two three",)])
async def test_a_piece_has_one_for_each_of_its_tokens_also_where_text_is_held_back(
    stop: tuple[str, ...], at_once: int
) -> None:
    text = "Zuerst 中😀 one two three, four"
    found = await pieces_of(text, stop, at_once)
    for piece in found:
        assert [each.top_token_ids for each in piece.logprobs] == [(token_id,) for token_id in piece.token_ids]
    if at_once == 1:
        assert any(piece.logprobs and not piece.text for piece in found), "some text was held back"
    answer = join(found)
    matched = stop == ("one two three",)
    assert answer.text == (text[: text.index("one")] if matched else text)
    num_tokens = len(answer.token_ids)
    assert (num_tokens < len(Tokenizer.load(DEMO_MODEL).encode(text))) == matched
    assert [each.logprob for each in answer.logprobs] == [-float(index) for index in range(num_tokens)]


def entries() -> st.SearchStrategy[list[tuple[int, TokenLogprobs]]]:
    real = st.floats(width=32, allow_nan=False, max_value=0)
    top = st.dictionaries(st.integers(0, 2**31 - 2), real, max_size=3)
    one = st.builds(lambda own, top: TokenLogprobs(own, tuple(top), tuple(top.values())), real, top)
    return st.lists(st.tuples(st.integers(0, 2**31 - 1), one), min_size=1, max_size=5)


@given(entries())
def test_they_travel_as_they_are(some: list[tuple[int, TokenLogprobs]]) -> None:
    handles = wire.pack(handle for handle, _ in some)
    output = scheduler_pb2.StepOutput(
        handles=handles, token_ids=bytes(len(handles)), logprobs=wire.logprobs_to_proto(pack(some))
    )
    assert wire.step_update_from_proto(output, MAX_INT32).logprobs == some


def ints(values: Any) -> Any:
    return np.array(values, np.int32)


def step(executor: Executor, starts: list[SequenceStart], generation: list[int]) -> StepResult:
    none = ints([])
    slots, lengths = ([each(start) for start in starts] for each in (lambda s: s.slot, lambda s: len(s.token_ids)))
    plan = StepPlan(
        1, np.empty((0, 2), np.int32), tuple(starts), none, none, ints(slots), ints(lengths), ints(generation)
    )
    return executor.execute(plan)


def start(slot: int, **wants: Any) -> SequenceStart:
    return sequence_start(slot, [5, 6, 7], [slot], **wants)


@pytest.fixture
def executor() -> Executor:
    return Executor(ExecutorConfig(dtype="float32", device="cpu", num_threads=1, num_blocks=8, max_batch_size=4))


def test_the_result_has_what_each_row_wants(executor: Executor) -> None:
    step(executor, [start(0)], [])
    result = step(executor, [start(3, logprobs=2), start(1, logprobs=0)], [0])
    assert result.logprobs is not None
    assert result.slots.tolist() == [3, 1, 0]
    assert result.logprobs.owners.tolist() == [3, 1]
    assert (result.logprobs.num_top.tolist(), len(result.logprobs.logprobs)) == ([2, 0], 4)
    (_, three), (_, one) = result.logprobs.unpack()
    assert three.logprob == one.logprob == three.top_logprobs[0]
    assert three.top_token_ids[0] == result.token_ids[0]
    penalties = {"presence_penalty": 2.0, "frequency_penalty": 2.0, "repetition_penalty": 10.0}
    penalized = step(executor, [start(2, logprobs=2, **penalties), start(0, **penalties)], [1])
    assert penalized.logprobs is not None
    (_, two), _ = penalized.logprobs.unpack()
    assert (two.top_token_ids, two.top_logprobs) == (three.top_token_ids, three.top_logprobs), "of raw logits"
    whole = step(executor, [start(3, logprobs=10**6)], []).logprobs
    assert whole is not None
    assert sorted(whole.top_token_ids) == list(range(2048)), "there are no more"


def test_who_asks_for_none_pays_for_none(executor: Executor) -> None:
    """Nothing runs, is allocated or travels; also beside slots that want them in other steps."""
    step(executor, [start(0)], [])
    before, after = Operations(), Operations()
    with before:
        plain = step(executor, [], [0])
    step(executor, [start(1, logprobs=5), start(2, logprobs=5)], [])
    # The slot of one that wanted them is given to one that does not.
    step(executor, [start(2)], [])
    with after:
        again = step(executor, [], [0])
        assert step(executor, [], [2]).logprobs is None
    assert after.names == before.names * 2
    assert plain.logprobs is again.logprobs is None
    message = wire.result_to_proto(plain)
    assert {field.name for field, _ in message.ListFields()} <= {"step", "slots", "token_ids", "compute_us"}
