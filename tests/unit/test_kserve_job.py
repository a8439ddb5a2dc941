"""What inputs of Triton's back ends mean as sampling parameters."""

import json
from typing import Any

import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.kserve.job import Job, read_job
from support.kserve import input_tensor

EOS = (2,)


def job(**inputs: Any) -> Job:
    tensors = [input_tensor(name, value) for name, value in ({"text_input": ["a"]} | inputs).items()]
    return read_job(pb.ModelInferRequest(inputs=tensors), EOS)


def params(**inputs: Any) -> SamplingParams:
    (prompt,) = job(**inputs).prompts
    return prompt.params


def with_json(**parameters: Any) -> SamplingParams:
    return params(sampling_parameters=[json.dumps(parameters)])


def test_nothing_given_is_greedy() -> None:
    assert params() == SamplingParams(temperature=0)
    # As the TensorRT-LLM backend has it.
    assert params(temperature=[0.5], top_p=[0.0], top_k=[0]) == SamplingParams(temperature=0)


def test_top_k_or_top_p_samples() -> None:
    assert params(top_k=[5], random_seed=[7]) == SamplingParams(top_k=5, seed=7)
    assert params(temperature=[0.5], top_p=[0.5]) == SamplingParams(temperature=0.5, top_p=0.5)


@pytest.mark.parametrize(
    ("end_id", "expected"),
    [
        (2, SamplingParams(temperature=0)),
        (-1, SamplingParams(temperature=0, ignore_eos=True)),
        (9, SamplingParams(temperature=0, ignore_eos=True, stop_token_ids=(9,))),
    ],
)
def test_the_end_token(end_id: int, expected: SamplingParams) -> None:
    assert params(end_id=[end_id]) == expected


def test_empty_words_are_none() -> None:
    assert params(stop_words=["", "x", ""], bad_words=["", "y"], min_tokens=[2]) == SamplingParams(
        temperature=0, stop=("x",), bad_words=("y",), min_tokens=2
    )


def test_vllms_parameters() -> None:
    assert with_json() == SamplingParams(max_tokens=16)
    found = with_json(temperature="0.5", max_tokens="3", top_k=-1, stop="x", n=1, seed=None, logit_bias={"7": 1})
    assert found == SamplingParams(temperature=0.5, max_tokens=3, stop=("x",), logit_bias=((7, 1.0),))


def test_log_probabilities_beside_vllms_parameters() -> None:
    found = job(sampling_parameters=['{"logprobs": 3}'], return_cumulative_logprob=[True])
    assert found.prompts[0].params.logprobs == 3
    assert found.outputs == ("text_output", "cumulative_logprob")


def test_whole_texts_begin_with_the_prompt_and_streams_do_not() -> None:
    assert job().includes_prompt
    assert not job(exclude_input_in_output=[True]).includes_prompt
    assert not job(exclude_input_in_output=[False], stream=[True]).includes_prompt


def batch(**columns: list[Any]) -> pb.ModelInferRequest:
    """Each of shape [n, k]."""
    request = pb.ModelInferRequest()
    for name, rows in columns.items():
        tensor = input_tensor(name, [value for row in rows for value in row])
        tensor.ClearField("shape")
        tensor.shape.extend((len(rows), len(rows[0])))
        request.inputs.append(tensor)
    return request


def test_each_prompt_of_a_batch_has_its_own() -> None:
    request = batch(
        text_input=[["a"], ["b"]], max_tokens=[[3], [4]], stop_words=[["x", ""], ["y", "z"]], stream=[[False], [False]]
    )
    found = read_job(request, EOS)
    assert [(each.text, each.params.max_tokens, each.params.stop) for each in found.prompts] == [
        ("a", 3, ("x",)),
        ("b", 4, ("y", "z")),
    ]
    assert found.outputs == ("text_output", "batch_index")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_input": [["a"], ["b"]], "top_k": [[1]]}, "top_k.shape: must be 2 in the first dimension"),
        ({"text_input": [["a"], ["b"]], "stream": [[True], [False]]}, "stream: must be the same for all prompts"),
        ({"text_input": [["a"]] * 129}, "text_input.shape: must be 1 to 128 prompts, got 129"),
        ({"text_input": [["a", "b"]]}, "text_input.shape: must be [n, 1] or [1], got (1, 2)"),
        ({"max_tokens": [[1]]}, "text_input: is required, got None"),
    ],
)
def test_batches_that_are_refused(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_job(batch(**columns), EOS)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["colour"], "outputs: must be among text_output, "),
        (["cum_log_probs"], "outputs: needs the input return_log_probs, got 'cum_log_probs'"),
    ],
)
def test_outputs_that_are_refused(outputs: list[str], message: str) -> None:
    request = batch(text_input=[["a"]])
    for name in outputs:
        request.outputs.add(name=name)
    with pytest.raises(InvalidRequest) as caught:
        read_job(request, EOS)
    assert str(caught.value).startswith(message)


def test_parameters() -> None:
    request = batch(text_input=[["a"]])
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    assert read_job(request, EOS).outputs == ("text_output",)
    request.parameters["priority"].uint64_param = 1
    with pytest.raises(InvalidRequest, match=r"^parameters\.priority: there is no such parameter; leave it out"):
        read_job(request, EOS)
