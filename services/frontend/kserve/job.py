"""What one ModelInferRequest asks for: prompts, how to sample, and which outputs to return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.kserve.sampling_parameters import read_sampling_parameters
from quire.services.frontend.kserve.signature import (
    BATCH_INDEX,
    INPUTS,
    MAX_BATCH,
    OUTPUTS,
    SAMPLING_INPUTS,
    SAMPLING_PARAMETERS,
    TEXT_INPUT,
)
from quire.services.frontend.kserve.tensor import read_tensors

_EMPTY_FINAL: Final = "triton_enable_empty_final_response"
# As `end_id`: no token ends the text.
_NO_END: Final = -1
# Outputs that need log-probabilities.
_LOGPROBS: Final = ("return_log_probs", "return_cumulative_logprob")
# Names in `SamplingParams`, where these differ.
_NAMES: Final = {"sampling.seed": "random_seed", "sampling.stop": "stop_words", "sampling.stop_token_ids": "end_id"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of the batch.

    Attributes:
        field: its name for refusals.
        names_sampling: what stands for "sampling." in its refusals.
    """

    field: str
    text: str
    params: SamplingParams
    uses_json: bool

    def renamed(self, error: InvalidRequest) -> InvalidRequest:
        """The same refusal with the names of this API."""
        group, dot, rest = error.field.partition(".")
        if group != "sampling":
            return error
        if self.uses_json:
            return InvalidRequest(f"{SAMPLING_PARAMETERS}{dot}{rest}", error.value, error.limit)
        name, bracket, index = error.field.partition("[")
        field = _NAMES.get(name, name.removeprefix("sampling.")) + bracket + index
        return InvalidRequest(field, error.value, error.limit)


@dataclass(frozen=True, slots=True)
class Job:
    """A request.

    Attributes:
        prompts: at least one.
        is_stream: each piece of text is a response.
        includes_prompt: whole texts begin with their prompts.
        outputs: names of the outputs to return, in this order.
        adapter: that answers; "": the model alone.
    """

    prompts: tuple[Prompt, ...]
    is_stream: bool
    includes_prompt: bool
    outputs: tuple[str, ...]
    adapter: str = ""


def read_job(request: pb.ModelInferRequest, eos_token_ids: Sequence[int]) -> Job:
    """
    Args:
        eos_token_ids: the model's own.

    Raises:
        InvalidRequest: an input, an output or a parameter is not known, or not as it must be.
    """
    for name, value in request.parameters.items():
        if name != _EMPTY_FINAL:
            raise InvalidRequest(f"parameters.{name}", str(value).strip(), "there is no such parameter; leave it out")
    inputs = _read_inputs(request)
    texts = inputs[TEXT_INPUT]
    prompts = []
    for index in range(len(texts)):
        row = {name: rows[index] for name, rows in inputs.items()}
        field = TEXT_INPUT if len(texts) == 1 else f"{TEXT_INPUT}[{index}]"
        uses_json = SAMPLING_PARAMETERS in row
        prompts.append(Prompt(field, _text(field, row[TEXT_INPUT][0]), _sampling(row, eos_token_ids), uses_json))
    flags = {name: _flag(inputs, name) for name in INPUTS if INPUTS[name].datatype == "BOOL"}
    return Job(
        prompts=tuple(prompts),
        is_stream=flags["stream"],
        includes_prompt=not (flags["exclude_input_in_output"] or flags["stream"]),
        outputs=_outputs(request, flags, is_batch=len(prompts) > 1),
    )


def _read_inputs(request: pb.ModelInferRequest) -> dict[str, list[list[Any]]]:
    """The values of each input, for each prompt."""
    inputs: dict[str, list[list[Any]]] = {}
    for name, tensor in read_tensors(request).items():
        if name not in INPUTS:
            raise InvalidRequest("inputs", name, f"must be among {', '.join(INPUTS)}")
        inputs[name] = INPUTS[name].rows(tensor)
    if TEXT_INPUT not in inputs:
        raise InvalidRequest(TEXT_INPUT, None, "is required")
    size = len(inputs[TEXT_INPUT])
    if not 1 <= size <= MAX_BATCH:
        raise InvalidRequest(f"{TEXT_INPUT}.shape", size, f"must be 1 to {MAX_BATCH} prompts")
    for name, rows in inputs.items():
        if len(rows) != size:
            raise InvalidRequest(f"{name}.shape", len(rows), f"must be {size} in the first dimension, as {TEXT_INPUT}")
    if SAMPLING_PARAMETERS in inputs:
        for each in SAMPLING_INPUTS:
            if each.name in inputs and each.off is None:
                raise InvalidRequest(each.name, "a tensor", f"must be left out beside {SAMPLING_PARAMETERS}")
    return inputs


def _sampling(row: Mapping[str, list[Any]], eos_token_ids: Sequence[int]) -> SamplingParams:
    """Of one prompt.

    Without top_k and top_p the most likely token is taken, whatever the temperature: so the TensorRT-LLM backend has
    it. There 0 stands for "all tokens" in both.
    """
    value = {name: values[0] for name, values in row.items() if values}
    wants_logprobs = any(value.get(name) for name in _LOGPROBS)
    if SAMPLING_PARAMETERS in value:
        params = read_sampling_parameters(value[SAMPLING_PARAMETERS])
        return replace(params, logprobs=params.logprobs or 0) if wants_logprobs else params
    top_k, top_p = value.get("top_k", 0), value.get("top_p", 0)
    ends = {value["end_id"]} - {*eos_token_ids} if "end_id" in value else set()
    return SamplingParams(
        temperature=value.get("temperature", 1.0) if top_k or top_p else 0.0,
        top_k=top_k,
        top_p=top_p or 1.0,
        seed=value.get("random_seed"),
        max_tokens=value.get("max_tokens"),
        stop=_words(row, "stop_words"),
        bad_words=_words(row, "bad_words"),
        min_tokens=value.get("min_tokens", 0),
        stop_token_ids=tuple(ends - {_NO_END}),
        ignore_eos=bool(ends),
        presence_penalty=value.get("presence_penalty", 0.0),
        frequency_penalty=value.get("frequency_penalty", 0.0),
        repetition_penalty=value.get("repetition_penalty", 1.0),
        logprobs=0 if wants_logprobs else None,
    )


def _flag(inputs: Mapping[str, list[list[Any]]], name: str) -> bool:
    """One value for all prompts."""
    values = {row[0] for row in inputs.get(name, [[False]])}
    if len(values) > 1:
        raise InvalidRequest(name, "true and false", "must be the same for all prompts of a request")
    return bool(values.pop())


def _outputs(request: pb.ModelInferRequest, flags: Mapping[str, bool], is_batch: bool) -> tuple[str, ...]:
    """Names of the outputs to return: those that are listed, or those that the inputs ask for."""
    asked = [each.name for each in OUTPUTS.values() if not each.asked_by or flags[each.asked_by]]
    if not request.outputs:
        return tuple(name for name in asked if name != BATCH_INDEX or is_batch)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise InvalidRequest("outputs", output.name, f"must be among {', '.join(OUTPUTS)}")
        for parameter in output.parameters:
            raise InvalidRequest(f"outputs.{output.name}.parameters", parameter, "must be empty")
        if output.name not in asked:
            raise InvalidRequest("outputs", output.name, f"needs the input {OUTPUTS[output.name].asked_by}")
    return tuple(dict.fromkeys(output.name for output in request.outputs))


def _words(row: Mapping[str, list[Any]], name: str) -> tuple[str, ...]:
    """Of one prompt. Rows of a batch have the same length, so that shorter lists end in empty words."""
    return tuple(_text(name, word) for word in row.get(name, ()) if word)


def _text(field: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(field, data, "must be valid UTF-8") from None
