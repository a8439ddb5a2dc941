"""The client's types and the protocol's messages."""

from dataclasses import replace
from typing import Any

import pytest

from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.protos.convert import (
    SAMPLING,
    completion_from_proto,
    detokenize_request,
    generate_request,
    logprobs_to_proto,
    tokenize_request,
)
from quire.v1 import inference_pb2 as pb

FULL = SamplingParams(
    temperature=0.5,
    top_k=40,
    top_p=0.75,
    min_p=0.125,
    seed=2**64 - 1,
    max_tokens=7,
    stop=("a", "b"),
    stop_token_ids=(1, 2),
    ignore_eos=True,
    presence_penalty=-0.5,
    frequency_penalty=2.0,
    repetition_penalty=1.25,
    logit_bias={1: -2, 3: 0.5},
    allowed_token_ids=(1, 3),
    bad_words=("c",),
    bad_words_ids=((1, 2), (3,)),
    min_tokens=2,
    no_repeat_ngram_size=3,
    typical_p=0.5,
    include_stop_str_in_output=True,
    skip_special_tokens=False,
    logprobs=0,
    prompt_logprobs=3,
)


@pytest.mark.parametrize("params", [FULL, SamplingParams(), SamplingParams(temperature=0, seed=0)])
def test_sampling_goes_round(params: SamplingParams) -> None:
    message = pb.SamplingParams.FromString(SAMPLING.to_proto(params).SerializeToString())
    assert SAMPLING.from_proto(message) == params


def test_unset_stays_unset() -> None:
    message = SAMPLING.to_proto(SamplingParams())
    assert not message.HasField("seed")
    assert not message.HasField("max_tokens")
    assert SAMPLING.from_proto(pb.SamplingParams()) == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("seed", -1, "must be 0 to 18446744073709551615, got -1"),
        ("seed", 2**64, "must be 0 to 18446744073709551615, got"),
        ("max_tokens", 2**40, "must be -2147483648 to 2147483647, got"),
        ("stop_token_ids", (-1,), r"must be 0 to 4294967295, got \(-1,\)"),
        ("top_k", "many", "does not fit the protocol's field"),
        ("stop", ("\ud800",), "does not fit the protocol's field"),
    ],
)
def test_what_a_message_cannot_hold_is_named(name: str, value: object, limit: str) -> None:
    with pytest.raises(InvalidRequest, match=f"sampling.{name}: {limit}"):
        SAMPLING.to_proto(replace(SamplingParams(), **{name: value}), "sampling")


def test_a_prompt_is_text_or_token_ids() -> None:
    assert generate_request("one", SamplingParams(), "r").text == "one"
    request = generate_request((1, 2), SamplingParams(), "")
    assert list(request.token_ids.ids) == [1, 2]
    assert generate_request([], SamplingParams(), "").WhichOneof("input") == "token_ids"


def test_a_prompt_may_be_a_mapping() -> None:
    assert generate_request({"prompt": "one"}, SamplingParams(), "r").text == "one"
    assert list(generate_request({"prompt_token_ids": [1]}, SamplingParams(), "r").token_ids.ids) == [1]


@pytest.mark.parametrize("prompt", [None, 5, b"x", {"a": 1}])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt: must "):
        generate_request(prompt, SamplingParams(), "")


@pytest.mark.parametrize("prompt", [[1.5], ["a"], [[1], [2]], [None]])
def test_token_ids_are_integers(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^token_ids: must be a flat list of integers"):
        generate_request(prompt, SamplingParams(), "")


def test_bad_text_and_ids_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^text: must be Unicode"):
        generate_request("\ud800", SamplingParams(), "")
    with pytest.raises(InvalidRequest, match=r"^request_id: must be Unicode"):
        generate_request("", SamplingParams(), "\ud800")
    with pytest.raises(InvalidRequest, match=r"^text: must be Unicode"):
        tokenize_request("\ud800")
    with pytest.raises(InvalidRequest, match=r"^token_ids\[1\]: must be 0 to 4294967295, got -1"):
        detokenize_request([0, -1])


def test_logprobs_go_round() -> None:
    entries = (TokenLogprobs(-0.5, (7, 2), (-0.25, -0.5)), TokenLogprobs(-1.5, (), ()))
    answer = Completion("ab", (2, 5), None, None, None, "r", entries)
    message = pb.GenerateResponse(
        request_id="r", text="ab", token_ids=[2, 5], logprobs=logprobs_to_proto(answer.logprobs)
    )
    assert completion_from_proto(pb.GenerateResponse.FromString(message.SerializeToString())) == answer


def test_a_piece_carries_no_end() -> None:
    piece = completion_from_proto(pb.GenerateStreamResponse(request_id="r", text="a", token_ids=[1]))
    assert piece == Completion("a", (1,), None, None, None, "r")


@pytest.mark.parametrize("matched", [{"stop": "x"}, {"stop_token_id": 0}, {}])
def test_the_end_says_what_matched(matched: dict[str, object]) -> None:
    usage = pb.Usage(prompt_tokens=3, cached_tokens=2, generated_tokens=1)
    finish = pb.Finish(reason=pb.FINISH_REASON_STOP, usage=usage, **matched)  # type: ignore[arg-type]
    answer = completion_from_proto(pb.GenerateResponse(text="a", finish=finish))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.matched_stop == next(iter(matched.values()), None)
    assert answer.usage == Usage(3, 2, 1)
