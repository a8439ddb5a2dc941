"""Completions as responses with output tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.completion import Completion, FinishReason
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.kserve.signature import OUTPUTS
from quire.services.frontend.kserve.tensor import Tensor, add_tensor

MODEL_VERSION: Final = "1"
FINAL: Final = "triton_final_response"
_REASONS: Final = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "abort"}


@dataclass(frozen=True, slots=True)
class Part:
    """What a response says of one prompt.

    Attributes:
        index: of the prompt in its batch.
        prefix: text in front of the completion's own.
        num_input_tokens: of the prompt.
        cumulative_logprob: of all tokens so far, this part's among them.
    """

    index: int
    completion: Completion
    prefix: str
    num_input_tokens: int
    cumulative_logprob: float


def infer_response(
    request: pb.ModelInferRequest, outputs: Sequence[str], parts: Sequence[Part]
) -> pb.ModelInferResponse:
    """The response with these outputs, of which each has a row for each part."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=MODEL_VERSION, id=request.id)
    for name in outputs:
        shape, elements = _CONTENTS[name](parts)
        add_tensor(response, Tensor(name, OUTPUTS[name].datatype, shape, elements))
    return response


_Contents = tuple[tuple[int, ...], list[Any]]


def _each(value: Callable[[Part], object]) -> Callable[[Sequence[Part]], _Contents]:
    """One element for each part, of shape [n]."""
    return lambda parts: ((len(parts),), [value(part) for part in parts])


def _column(value: Callable[[Part], object]) -> Callable[[Sequence[Part]], _Contents]:
    """One element for each part, of shape [n, 1]."""
    return lambda parts: ((len(parts), 1), [value(part) for part in parts])


def _output_log_probs(parts: Sequence[Part]) -> _Contents:
    """[n, 1, tokens of the longest], filled up with 0."""
    rows = [[each.logprob for each in part.completion.logprobs] for part in parts]
    width = max(map(len, rows))
    return (len(rows), 1, width), [value for row in rows for value in (*row, *[0.0] * (width - len(row)))]


def _finish_reason(part: Part) -> bytes:
    reason = part.completion.finish_reason
    # "None" is what the vLLM backend says of a piece that is not the last.
    return b"None" if reason is None else _REASONS[reason].encode()


# The shapes are those of the back ends' answers, where text has no dimension behind the batch.
_CONTENTS: Final[Mapping[str, Callable[[Sequence[Part]], _Contents]]] = MappingProxyType(
    {
        "text_output": _each(lambda part: (part.prefix + part.completion.text).encode()),
        "cum_log_probs": _column(lambda part: part.cumulative_logprob),
        "output_log_probs": _output_log_probs,
        "cumulative_logprob": _each(lambda part: part.cumulative_logprob),
        "finish_reason": _each(_finish_reason),
        "num_input_tokens": _each(lambda part: part.num_input_tokens),
        "num_output_tokens": _each(lambda part: len(part.completion.token_ids)),
        "batch_index": _column(lambda part: part.index),
    }
)
