"""The client's types to protocol messages and back. Nothing is checked here but what a message cannot hold."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import index
from typing import Any, Final, TypeVar

from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import Completion, FinishReason, Usage
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import DEFAULT_OPTIONS, CacheParams, PromptParams, RequestOptions, Retention
from quire.engine.api.pooling import Pooling
from quire.engine.api.prompt import Prompt, prompt_content
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.api.trace_context import TraceContext
from quire.engine.grammar.validation import validate_structured_output
from quire.protos.codec import Enumerated, MessageCodec, Nested, NestedList
from quire.protos.status import code_of, retry_delay
from quire.v1 import inference_pb2 as pb

Response = TypeVar("Response", pb.GenerateResponse, pb.GenerateStreamResponse)


class _TokenLists:
    """A tuple of tuples of token ids."""

    def put(self, message: pb.SamplingParams, name: str, value: Iterable[Sequence[int]]) -> None:
        getattr(message, name).extend(pb.TokenIds(ids=each) for each in value)

    def take(self, path: str, value: Iterable[pb.TokenIds]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(each.ids) for each in value)


class _Structure:
    """A `StructuredOutput`, of which a message holds one kind."""

    def put(self, message: Any, name: str, value: StructuredOutput) -> None:
        validate_structured_output(value, f"sampling.{name}")
        (kind,) = value.given
        there = getattr(message, name)
        if kind == "choice":
            there.choice.texts.extend(value.choice)
        else:
            setattr(there, kind, getattr(value, kind))

    def take(self, path: str, value: pb.StructuredOutput) -> StructuredOutput:
        kind = value.WhichOneof("kind")
        if kind is None:
            return StructuredOutput()
        given: dict[str, Any] = {kind: getattr(value, kind)}
        if kind == "choice":
            given[kind] = tuple(value.choice.texts)
        return StructuredOutput(**given)


STRUCTURE: Final = _Structure()
THINKING: Final = MessageCodec(ThinkingBudget, pb.ThinkingBudget)
POOLING: Final = Enumerated(Pooling)
SAMPLING: Final = MessageCodec(
    SamplingParams,
    pb.SamplingParams,
    {"bad_words_ids": _TokenLists(), "structured_output": STRUCTURE, "pooling": POOLING, "thinking": Nested(THINKING)},
)
CACHE: Final = MessageCodec(
    CacheParams, pb.CacheOptions, {"retention": NestedList(MessageCodec(Retention, pb.Retention))}
)
PROMPT: Final = MessageCodec(PromptParams, pb.PromptOptions)
TRACE: Final = MessageCodec(TraceContext, pb.TraceContext)
ADAPTER: Final = MessageCodec(Adapter, pb.Adapter)


def trace_from_proto(message: pb.TraceContext) -> TraceContext | None:
    """None for what is no trace context."""
    return TraceContext.read(message.traceparent, message.tracestate)


def embed_request(
    prompt: Prompt, pooling: Pooling, request_id: str, options: RequestOptions = DEFAULT_OPTIONS, normalize: bool = True
) -> pb.EmbedRequest:
    """Alike.

    Raises:
        InvalidRequest: a value does not fit its field, or the prompt is none.
    """
    message = generate_request(prompt, SamplingParams(), request_id, options)
    request = pb.EmbedRequest(
        request_id=message.request_id,
        priority=message.priority,
        cache=message.cache,
        prompt=message.prompt,
        adapter=message.adapter,
        pooling=pb.Pooling.ValueType(pooling),
        normalize=normalize,
    )
    if message.WhichOneof("input") == "text":
        request.text = message.text
    else:
        request.token_ids.CopyFrom(message.token_ids)
    return request


def embedding_to_proto(embedding: Embedding) -> pb.EmbedResponse:
    return pb.EmbedResponse(
        request_id=embedding.request_id, embedding=embedding.values, usage=_usage_to_proto(embedding.usage)
    )


def embedding_from_proto(message: pb.EmbedResponse) -> Embedding:
    """Inverse of `embedding_to_proto`."""
    return Embedding(tuple(message.embedding), _usage_from_proto(message.usage), message.request_id)


def generate_request(
    prompt: Prompt,
    params: SamplingParams,
    request_id: str,
    options: RequestOptions = DEFAULT_OPTIONS,
    n: int = 1,
) -> pb.GenerateRequest:
    """A text goes to be tokenized by the server; token ids go as they are.

    Raises:
        InvalidRequest: a value does not fit its field, or the prompt is none.
    """
    content = prompt_content(prompt)
    _unicode("cache.salt", options.cache.salt)
    message = pb.GenerateRequest(
        sampling=SAMPLING.to_proto(params, "sampling"),
        cache=CACHE.to_proto(options.cache, "cache"),
        prompt=PROMPT.to_proto(options.prompt, "prompt"),
    )
    if options.trace is not None:
        message.trace.CopyFrom(TRACE.to_proto(options.trace, "trace"))
    message.request_id = _unicode("request_id", request_id)
    message.adapter = _unicode("adapter", options.adapter)
    for field, value in (("priority", options.priority), ("n", n), ("deadline_ms", options.deadline_ms)):
        if value is not None:
            try:
                setattr(message, field, value)
            except (ValueError, TypeError) as error:
                raise InvalidRequest(field, value, f"does not fit the protocol's field ({error})") from error
    if isinstance(content, str):
        message.text = _unicode("text", content)
    else:
        message.token_ids.CopyFrom(pb.TokenIds(ids=_token_ids(content)))
    return message


def load_adapter_request(name: str, path: str, replace: bool) -> pb.LoadAdapterRequest:
    """Raises `InvalidRequest` for a text with lone surrogates."""
    return pb.LoadAdapterRequest(name=_unicode("name", name), path=_unicode("path", path), replace=replace)


def unload_adapter_request(name: str) -> pb.UnloadAdapterRequest:
    """Raises `InvalidRequest` for a text with lone surrogates."""
    return pb.UnloadAdapterRequest(name=_unicode("name", name))


def tokenize_request(text: str) -> pb.TokenizeRequest:
    """Raises `InvalidRequest` for a text with lone surrogates."""
    return pb.TokenizeRequest(text=_unicode("text", text))


def detokenize_request(token_ids: Sequence[int]) -> pb.DetokenizeRequest:
    """Raises `InvalidRequest` for an id that does not fit 32 bits without sign."""
    return pb.DetokenizeRequest(token_ids=_token_ids(token_ids))


def abort_request(request_id: str) -> pb.AbortRequest:
    """Raises `InvalidRequest` for a name with lone surrogates."""
    return pb.AbortRequest(request_id=_unicode("request_id", request_id))


def completion_from_proto(message: pb.GenerateResponse | pb.GenerateStreamResponse) -> Completion:
    """A whole answer or a piece of one."""
    finish = message.finish
    ended = message.HasField("finish")
    matched = finish.WhichOneof("matched")
    return Completion(
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=FinishReason(finish.reason) if ended else None,
        matched_stop=getattr(finish, matched) if matched else None,
        usage=_usage_from_proto(finish.usage) if ended else None,
        request_id=message.request_id,
        logprobs=tuple(map(_logprobs_from_proto, message.logprobs)),
        prompt_logprobs=tuple(map(_logprobs_from_proto, message.prompt_logprobs)),
        index=message.index if isinstance(message, pb.GenerateStreamResponse) else 0,
        cumulative_logprob=finish.cumulative_logprob if finish.HasField("cumulative_logprob") else None,
    )


def completions_from_proto(message: pb.GenerateResponse) -> list[Completion]:
    """All answers of a whole response."""
    answers = map(completion_from_proto, (message, *message.others))
    return [replace(answer, index=index) for index, answer in enumerate(answers)]


def completion_to_proto(completion: Completion, kind: type[Response]) -> Response:
    """Inverse of `completion_from_proto`."""
    message = kind()
    write_completion(completion, message)
    return message


def write_completion(completion: Completion, message: pb.GenerateResponse | pb.GenerateStreamResponse) -> None:
    """Sets the fields of an empty message."""
    message.request_id = completion.request_id
    message.text = completion.text
    message.token_ids.extend(completion.token_ids)
    if completion.logprobs:
        message.logprobs.extend(logprobs_to_proto(completion.logprobs))
    if completion.prompt_logprobs:
        message.prompt_logprobs.extend(logprobs_to_proto(completion.prompt_logprobs))
    if (finish := finish_to_proto(completion)) is not None:
        message.finish.CopyFrom(finish)


def logprobs_to_proto(logprobs: Iterable[TokenLogprobs]) -> list[pb.TokenLogprobs]:
    """One message for each token."""
    return [
        pb.TokenLogprobs(
            logprob=each.logprob,
            top_token_ids=each.top_token_ids,
            top_logprobs=each.top_logprobs,
            rank=each.rank,
        )
        for each in logprobs
    ]


def finish_to_proto(completion: Completion) -> pb.Finish | None:
    """How it ended; None if it has not."""
    if completion.finish_reason is None or completion.usage is None:
        return None
    usage = _usage_to_proto(completion.usage)
    finish = pb.Finish(
        reason=pb.FinishReason.ValueType(completion.finish_reason),
        usage=usage,
        cumulative_logprob=completion.cumulative_logprob,
    )
    if isinstance(completion.matched_stop, str):
        finish.stop = completion.matched_stop
    elif completion.matched_stop is not None:
        finish.stop_token_id = completion.matched_stop
    return finish


def failure_to_proto(error: RequestError) -> pb.GenerateFailure:
    """The status that a separate stream would end with."""
    failure = pb.GenerateFailure(code=code_of(error), message=str(error))
    if (delay := retry_delay(error)) is not None:
        failure.retry_delay.FromMilliseconds(int(delay * 1000))
    return failure


def _logprobs_from_proto(message: pb.TokenLogprobs) -> TokenLogprobs:
    rank = message.rank if message.HasField("rank") else None
    return TokenLogprobs(message.logprob, tuple(message.top_token_ids), tuple(message.top_logprobs), rank)


def _usage_to_proto(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        generated_tokens=usage.generated_tokens,
    )


def _usage_from_proto(usage: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        generated_tokens=usage.generated_tokens,
    )


def _unicode(field: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, text, "must be Unicode without lone surrogates") from error
    return text


def _token_ids(token_ids: Sequence[int]) -> list[int]:
    try:
        ids = list(map(index, token_ids))
    except TypeError as error:
        raise InvalidRequest("token_ids", token_ids, "must be a flat list of integers") from error
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < 2**32:
            raise InvalidRequest(f"token_ids[{place}]", token_id, f"must be 0 to {2**32 - 1}")
    return ids
