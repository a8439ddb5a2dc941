"""The one place that knows both the internal protocol's messages and the engine's types.

What comes from another process is validated here. Every function that ends in `_from_proto` raises `InvalidRequest`,
which names the field, its value and what is allowed.

Arrays travel as packed little-endian int32 (log-probabilities: float32). Numpy has the same layout in memory on all
supported machines, so packing and unpacking cost one copy.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from google.rpc import code_pb2
from numpy.typing import NDArray

from quire.engine.adapter_names import MAX_DIGEST, check_adapter_name, check_adapter_path
from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, Overloaded, RequestError, Unavailable
from quire.engine.api.kv_cache_group import groups_of
from quire.engine.api.limits import (
    MAX_COUNTER,
    MAX_INT32,
    MAX_INTERVAL,
    MAX_REQUEST_ID_BYTES,
    ServingLimits,
)
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import RequestOptions
from quire.engine.api.trace_context import TraceContext
from quire.engine.arrays import Int32Array
from quire.engine.embeddings import PackedEmbeddings, pack_embeddings
from quire.engine.grammar.validation import validate_structured_output
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs, pack_prompt
from quire.engine.open_request import Finish, OpenRequest, scheduled_params
from quire.engine.preparation import AdapterPreparation, Preparation, StructurePreparation
from quire.engine.request import Request
from quire.engine.step import DeviceKind, ExecutorInfo, SequenceStart, SlotFailure, StepPlan, StepResult
from quire.engine.step_update import StepUpdate
from quire.engine.step_validation import (
    check_lengths,
    validate_embeddings,
    validate_info,
    validate_logprobs,
    validate_plan,
    validate_prompt_logprobs,
    validate_result,
)
from quire.engine.token_ids import check_ids
from quire.engine.validation import check_range, validate_options
from quire.internal.v1 import adapter_pb2, executor_pb2, logprobs_pb2, scheduler_pb2
from quire.protos.codec import Enumerated, MessageCodec, Nested, NestedList, Packed
from quire.protos.convert import CACHE, SAMPLING, STRUCTURE, TRACE, trace_from_proto
from quire.protos.status import RefusedRequest, code_of
from quire.v1 import inference_pb2

_INT32 = np.dtype("<i4")
_PACKED = Packed()
_LOGPROBS = MessageCodec(
    PackedLogprobs,
    logprobs_pb2.PackedLogprobs,
    {"owners": _PACKED, "num_top": _PACKED, "logprobs": Packed("<f4"), "top_token_ids": _PACKED},
)


class _Trace:
    """A trace context; one that is none is left out."""

    def put(self, message: Any, name: str, value: TraceContext) -> None:
        getattr(message, name).CopyFrom(TRACE.to_proto(value))

    def take(self, path: str, value: inference_pb2.TraceContext) -> TraceContext | None:
        return trace_from_proto(value)


_START = MessageCodec(
    SequenceStart,
    executor_pb2.SequenceStart,
    {"token_ids": _PACKED, "block_table": _PACKED, "sampling": Nested(SAMPLING), "trace": _Trace()},
)
_PLAN = MessageCodec(
    StepPlan,
    executor_pb2.StepPlan,
    {
        "copies": Packed(columns=2),
        "starts": NestedList(_START),
        "append_slots": _PACKED,
        "append_blocks": _PACKED,
        "context_slots": _PACKED,
        "context_tokens": _PACKED,
        "generation_slots": _PACKED,
    },
)
_EMBEDDINGS = MessageCodec(
    PackedEmbeddings, logprobs_pb2.PackedEmbeddings, {"owners": _PACKED, "values": Packed("<f4")}
)
_PROMPT_LOGPROBS = MessageCodec(
    PackedPromptLogprobs,
    logprobs_pb2.PackedPromptLogprobs,
    {"entries": Nested(_LOGPROBS), "positions": _PACKED, "ranks": _PACKED},
)


class _Error:
    """A `RequestError` as the status that it is answered with."""

    def put(self, message: Any, name: str, value: RequestError) -> None:
        getattr(message, name).CopyFrom(_failure(value))

    def take(self, path: str, value: executor_pb2.Failure) -> RequestError:
        check_range(f"{path}.code", value.code, 1, MAX_CODE)
        return _error(value.code, value.message, is_retryable=value.code == code_pb2.UNAVAILABLE)


_ERROR = _Error()
_RESULT = MessageCodec(
    StepResult,
    executor_pb2.StepResult,
    {
        "slots": _PACKED,
        "token_ids": _PACKED,
        "logprobs": Nested(_LOGPROBS),
        "prompt_logprobs": Nested(_PROMPT_LOGPROBS),
        "failures": NestedList(MessageCodec(SlotFailure, executor_pb2.SlotFailure, {"error": _ERROR})),
        "embeddings": Nested(_EMBEDDINGS),
    },
)
_ADAPTER = MessageCodec(Adapter, adapter_pb2.Adapter)
_INFO = MessageCodec(ExecutorInfo, executor_pb2.ExecutorInfo, {"device": Enumerated(DeviceKind)})

# Trailing metadata of an executor's refusal: the epoch that it obeys.
EPOCH_METADATA = "quire-epoch"
# Epochs grow by one from term to term.
MAX_EPOCH_GAP = 2**32
# Characters of a peer's name.
MAX_NAME = 512
# The highest google.rpc.Code.
MAX_CODE = max(code_pb2.Code.values())


def epoch_from_metadata(metadata: Iterable[tuple[str, str | bytes]], own: int) -> int:
    """The epoch that an executor obeys, which has refused the scheduler of epoch `own`."""
    text = str(dict(metadata).get(EPOCH_METADATA, ""))
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNTER))):
        raise InvalidRequest(EPOCH_METADATA, text, "must be a number")
    check_range(EPOCH_METADATA, int(text), own, highest_epoch(own))
    return int(text)


def highest_epoch(known: int) -> int:
    """That whoever knows of epoch `known` believes: a single wrong one cannot use up all that there are.

    0, of an executor that obeys nobody yet: any.
    """
    return min(known + MAX_EPOCH_GAP, MAX_COUNTER) if known else MAX_COUNTER


def pack(values: Int32Array | Iterable[int]) -> bytes:
    """Little-endian int32 bytes of a sequence of numbers."""
    array = values if isinstance(values, np.ndarray) else np.fromiter(values, _INT32)
    return array.astype(_INT32, copy=False).tobytes()


def unpack(field: str, data: bytes) -> Int32Array:
    """Inverse of `pack`; the array is read-only.

    Raises:
        InvalidRequest: the length is not that of whole numbers.
    """
    return _PACKED.take(field, data)


def plan_to_proto(plan: StepPlan) -> executor_pb2.StepPlan:
    return _PLAN.to_proto(plan)


def plan_from_proto(plan: executor_pb2.StepPlan, info: ExecutorInfo, newest_step: int) -> StepPlan:
    """A plan for the executor of this description, whose highest plan so far was `newest_step`."""
    found = _PLAN.from_proto(plan)
    validate_plan(found, info, newest_step)
    return found


def result_to_proto(result: StepResult) -> executor_pb2.StepResult:
    return _RESULT.to_proto(result)


def result_from_proto(result: executor_pb2.StepResult, vocab_size: int) -> StepResult:
    found = _RESULT.from_proto(result)
    validate_result(found, vocab_size)
    return found


def prepare_to_proto(number: int, preparation: Preparation) -> executor_pb2.Prepare:
    if isinstance(preparation, AdapterPreparation):
        adapter = executor_pb2.AdapterPlace(adapter=adapter_to_proto(preparation.adapter), place=preparation.place)
        return executor_pb2.Prepare(number=number, adapter=adapter)
    message = executor_pb2.Prepare(number=number, tried=preparation.is_tried)
    STRUCTURE.put(message, "structured_output", preparation.structure)
    return message


def preparation_from_proto(prepare: executor_pb2.Prepare, info: ExecutorInfo) -> Preparation:
    """What an executor is to make ready."""
    if prepare.HasField("adapter"):
        check_range("prepare.adapter.place", prepare.adapter.place, 0, info.num_adapters - 1)
        adapter = adapter_from_proto("prepare.adapter.adapter", prepare.adapter.adapter)
        return AdapterPreparation(adapter, prepare.adapter.place)
    found = STRUCTURE.take("structured_output", prepare.structured_output)
    validate_structured_output(found, "prepare.structured_output")
    return StructurePreparation(found, prepare.tried)


def examine_to_proto(number: int, name: str, path: str) -> executor_pb2.Prepare:
    return executor_pb2.Prepare(number=number, examined=adapter_pb2.Adapter(name=name, path=path))


def prepared_to_proto(number: int, error: RequestError | None, digest: str = "") -> executor_pb2.Prepared:
    failure = None if error is None else _failure(error)
    return executor_pb2.Prepared(number=number, failure=failure, digest=digest)


def prepared_from_proto(prepared: executor_pb2.Prepared) -> RequestError | None:
    """Why it cannot be made ready; None if it is."""
    check_range("prepared.digest", len(prepared.digest), 0, MAX_DIGEST, "characters")
    return _ERROR.take("prepared.failure", prepared.failure) if prepared.HasField("failure") else None


def adapter_to_proto(adapter: Adapter) -> adapter_pb2.Adapter:
    return _ADAPTER.to_proto(adapter)


def adapter_from_proto(field: str, adapter: adapter_pb2.Adapter) -> Adapter:
    """An adapter that an executor has examined."""
    found = examined_from_proto(field, adapter)
    check_range(f"{field}.digest", len(found.digest), 1, MAX_DIGEST, "characters")
    return found


def examined_from_proto(field: str, adapter: adapter_pb2.Adapter) -> Adapter:
    """An adapter that an executor is to examine; it has no digest yet."""
    check_adapter_name(f"{field}.name", adapter.name)
    check_adapter_path(f"{field}.path", adapter.path)
    return _ADAPTER.from_proto(adapter, field)


def logprobs_to_proto(logprobs: PackedLogprobs) -> logprobs_pb2.PackedLogprobs:
    return _LOGPROBS.to_proto(logprobs)


def prompt_logprobs_to_proto(
    entries: Sequence[tuple[int, int, TokenLogprobs]],
) -> logprobs_pb2.PackedPromptLogprobs:
    return _PROMPT_LOGPROBS.to_proto(pack_prompt(entries))


def embeddings_to_proto(entries: Sequence[tuple[int, NDArray[np.float32]]]) -> logprobs_pb2.PackedEmbeddings:
    return _EMBEDDINGS.to_proto(pack_embeddings(entries))


def info_to_proto(info: ExecutorInfo) -> executor_pb2.ExecutorInfo:
    return _INFO.to_proto(info)


def info_from_proto(info: executor_pb2.ExecutorInfo) -> ExecutorInfo:
    found = _INFO.from_proto(info)
    validate_info(found)
    return found


def submission_to_proto(
    request: OpenRequest, resumed: bool, deadline_ms: int | None = None
) -> scheduler_pb2.Submission:
    """The message for a request whose client waits for so many milliseconds yet; None: for ever."""
    return scheduler_pb2.Submission(
        handle=request.handle,
        request_id=request.request_id,
        prompt=pack(request.prompt),
        generated=pack(request.generated),
        sampling=SAMPLING.to_proto(scheduled_params(request.params)),
        priority=request.options.priority,
        cache=CACHE.to_proto(request.options.cache),
        trace=TRACE.to_proto(trace) if (trace := request.options.trace) else None,
        resumed=resumed,
        interval=request.interval,
        tenant=request.options.tenant,
        tenant_weight=request.options.tenant_weight,
        deadline_ms=deadline_ms,
        adapter=None if request.adapter is None else adapter_to_proto(request.adapter),
    )


def handle_from_proto(field: str, handle: int) -> int:
    """A request's number, which has to fit into packed arrays."""
    check_range(field, handle, 0, MAX_INT32)
    return handle


def submission_from_proto(client: int, submission: scheduler_pb2.Submission) -> Request:
    """A request whose tokens and parameters are still to be compared with the limits of an executor."""
    check_range("request_id", len(submission.request_id.encode()), 0, MAX_REQUEST_ID_BYTES, "bytes")
    check_range("interval", submission.interval, 0, MAX_INTERVAL)
    cache, trace = CACHE.from_proto(submission.cache, "cache"), trace_from_proto(submission.trace)
    options = RequestOptions(
        submission.priority,
        cache,
        trace=trace,
        deadline_ms=max(1, submission.deadline_ms) if submission.HasField("deadline_ms") else None,
        tenant=submission.tenant,
        tenant_weight=max(1, submission.tenant_weight),
    )
    validate_options(options)
    params = SAMPLING.from_proto(submission.sampling, "sampling")
    for field in ("max_tokens", "seed"):
        if getattr(params, field) is None:
            raise InvalidRequest(f"sampling.{field}", None, "must be set")
    return Request(
        request_id=submission.request_id,
        client=client,
        handle=handle_from_proto("handle", submission.handle),
        prompt=unpack("prompt", submission.prompt),
        generated=unpack("generated", submission.generated),
        params=params,
        options=options,
        is_resumed=submission.resumed,
        interval=max(1, submission.interval),
        adapter=adapter_from_proto("adapter", submission.adapter) if submission.HasField("adapter") else None,
    )


def finished_to_proto(handle: int, finish: Finish) -> scheduler_pb2.SequenceFinished:
    return scheduler_pb2.SequenceFinished(
        handle=handle,
        reason=inference_pb2.FinishReason.ValueType(finish.reason),
        stop_token_id=finish.stop_token_id,
    )


def limits_from_proto(state: scheduler_pb2.ServingState) -> ServingLimits:
    return ServingLimits(
        state.vocab_size,
        state.max_model_len,
        state.num_blocks,
        state.block_size,
        frozenset(state.logits_processors),
        groups_of(state.cache_windows),
    )


def check_state(state: scheduler_pb2.ServingState) -> None:
    """Raises `InvalidRequest` for a scheduler that serves nothing which a request could be compared with."""
    check_range("epoch", state.epoch, 0, MAX_COUNTER)
    if state.num_executors:
        for field in ("vocab_size", "max_model_len", "num_blocks", "block_size"):
            check_range(field, getattr(state, field), 1, MAX_INT32)
    check_range("impediment", len(state.impediment), 0, MAX_NAME, "characters")
    for index, adapter in enumerate(state.adapters):
        adapter_from_proto(f"adapters[{index}]", adapter)


def step_update_from_proto(output: scheduler_pb2.StepOutput, vocab_size: int) -> StepUpdate[int]:
    """What a scheduler that serves a vocabulary of so many tokens sent to this frontend."""
    handles, token_ids = unpack("handles", output.handles), unpack("token_ids", output.token_ids)
    started, cached = unpack("started_handles", output.started_handles), unpack("cached_tokens", output.cached_tokens)
    check_lengths("token_ids", token_ids, "handles", handles)
    check_lengths("cached_tokens", cached, "started_handles", started)
    check_ids("token_ids", token_ids, vocab_size)
    check_ids("cached_tokens", cached, MAX_INT32)
    logprobs = _LOGPROBS.from_proto(output.logprobs, "logprobs") if output.HasField("logprobs") else None
    if logprobs is not None:
        validate_logprobs(logprobs, vocab_size, handles)
    prompt = (
        _PROMPT_LOGPROBS.from_proto(output.prompt_logprobs, "prompt_logprobs")
        if output.HasField("prompt_logprobs")
        else None
    )
    if prompt is not None:
        validate_prompt_logprobs(prompt, vocab_size)
    embeddings = _EMBEDDINGS.from_proto(output.embeddings, "embeddings") if output.HasField("embeddings") else None
    if embeddings is not None:
        validate_embeddings(embeddings)
    ended: list[tuple[int, Finish | RequestError]] = []
    for finished in output.finished:
        ended.append((finished.handle, _finish_from_proto(finished, vocab_size)))
    for failed in output.failed:
        check_range("failed.code", failed.code, 1, MAX_CODE)
        error = _error(failed.code, failed.message, is_retryable=failed.retryable, retry_ms=failed.retry_ms)
        ended.append((failed.handle, error))
    return StepUpdate(
        started=list(zip(started.tolist(), cached.tolist(), strict=True)),
        tokens=list(zip(handles.tolist(), token_ids.tolist(), strict=True)),
        logprobs=logprobs.unpack() if logprobs is not None else [],
        ended=ended,
        prompt_logprobs=prompt.unpack() if prompt is not None else [],
        embeddings=embeddings.unpack() if embeddings is not None else [],
    )


def queue_seconds_from_proto(output: scheduler_pb2.StepOutput) -> list[float]:
    """Of the sequences that started, in their order; none of them is negative."""
    if not output.queue_seconds and not output.started_handles:
        return []
    if len(output.queue_seconds) != len(output.started_handles):
        limit = f"must have {len(output.started_handles)} bytes, one number for each of started_handles"
        raise InvalidRequest("queue_seconds", len(output.queue_seconds), limit)
    seconds = np.frombuffer(output.queue_seconds, "<f4")
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise InvalidRequest("queue_seconds", seconds.tolist(), "must be at least 0 and finite")
    found: list[float] = seconds.tolist()
    return found


def _finish_from_proto(finished: scheduler_pb2.SequenceFinished, vocab_size: int) -> Finish:
    check_range("finished.reason", finished.reason, min(FinishReason), max(FinishReason))
    if not finished.HasField("stop_token_id"):
        return Finish(FinishReason(finished.reason))
    check_range("finished.stop_token_id", finished.stop_token_id, 0, vocab_size - 1)
    return Finish(FinishReason(finished.reason), finished.stop_token_id)


def _failure(error: RequestError) -> executor_pb2.Failure:
    return executor_pb2.Failure(code=code_of(error), message=str(error))


def _error(code: int, message: str, *, is_retryable: bool, retry_ms: int = 0) -> RequestError:
    if code == code_pb2.INVALID_ARGUMENT:
        return RefusedRequest(message)
    if code == code_pb2.RESOURCE_EXHAUSTED:
        return Overloaded(message, retry_ms / 1000)
    return Unavailable(message) if is_retryable else RequestError(message)
