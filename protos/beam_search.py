"""Beam search to protocol messages and back."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from quire.engine.api.beam_search import BeamSearchParams, EarlyStopping
from quire.engine.api.completion import Completion
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.prompt import Prompt
from quire.engine.api.sampling import SamplingParams
from quire.protos.codec import Enumerated, MessageCodec
from quire.protos.convert import completion_from_proto, completion_to_proto, generate_request
from quire.v1 import inference_pb2 as pb

BEAM_SEARCH: Final = MessageCodec(BeamSearchParams, pb.BeamSearchParams, {"early_stopping": Enumerated(EarlyStopping)})


def beam_search_request(
    prompt: Prompt, params: BeamSearchParams, request_id: str, options: RequestOptions = DEFAULT_OPTIONS
) -> pb.BeamSearchRequest:
    """A text goes to be tokenized by the server; token ids go as they are.

    Raises:
        InvalidRequest: a value does not fit its field, or the prompt is none.
    """
    message = generate_request(prompt, SamplingParams(), request_id, options)
    request = pb.BeamSearchRequest(
        request_id=message.request_id,
        sampling=BEAM_SEARCH.to_proto(params, "sampling"),
        priority=message.priority,
        cache=message.cache,
        prompt=message.prompt,
        trace=message.trace if message.HasField("trace") else None,
        deadline_ms=options.deadline_ms,
        adapter=message.adapter,
    )
    if message.WhichOneof("input") == "text":
        request.text = message.text
    else:
        request.token_ids.CopyFrom(message.token_ids)
    return request


def answers_to_proto(answers: Iterable[Completion]) -> pb.BeamSearchResponse:
    return pb.BeamSearchResponse(answers=[completion_to_proto(each, pb.GenerateResponse) for each in answers])


def answers_from_proto(message: pb.BeamSearchResponse) -> list[Completion]:
    """Inverse of `answers_to_proto`."""
    return [replace(completion_from_proto(each), index=index) for index, each in enumerate(message.answers)]
