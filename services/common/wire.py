"""The one place that knows both the internal protocol's messages and the engine's types.

What comes from another process is validated here. Every function that ends in `_from_proto` raises `InvalidRequest`,
which names the field, its value and what is allowed.

Arrays travel as packed little-endian int32 (log-probabilities: float32). Numpy has the same layout in memory on all
supported machines, so packing and unpacking cost one copy.
"""

from collections.abc import Iterable

import numpy as np
from google.rpc import code_pb2
from numpy.typing import NDArray

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, Overloaded, RequestError, Unavailable
from quire.engine.api.limits import (
    MAX_COUNTER,
    MAX_INT32,
    MAX_INTERVAL,
    MAX_REQUEST_ID_BYTES,
    ServingLimits,
)
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.request import Request
from quire.engine.step import DeviceKind, ExecutorInfo, Penalties, SequenceStart, StepPlan, StepResult
from quire.engine.step_update import StepUpdate
from quire.engine.step_validation import (
    check_lengths,
    validate_info,
    validate_logprobs,
    validate_plan,
    validate_result,
)
from quire.engine.validation import check_ids, check_range, validate_options
from quire.protos.convert import cache_from_proto, cache_to_proto
from quire.protos.status import RefusedRequest
from quire.v1 import executor_pb2, inference_pb2, logprobs_pb2, scheduler_pb2

_INT32 = np.dtype("<i4")
_FLOAT32 = np.dtype("<f4")

# Trailing metadata of an executor's refusal: the epoch that it obeys.
EPOCH_METADATA = "quire-epoch"
# The highest google.rpc.Code.
MAX_CODE = max(code_pb2.Code.values())


def epoch_from_metadata(metadata: Iterable[tuple[str, str | bytes]], own: int) -> int:
    """The epoch that an executor obeys, which has refused the scheduler of epoch `own`."""
    text = str(dict(metadata).get(EPOCH_METADATA, ""))
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNTER))):
        raise InvalidRequest(EPOCH_METADATA, text, "must be a number")
    check_range(EPOCH_METADATA, int(text), own, MAX_COUNTER)
    return int(text)


def pack(values: Int32Array | Iterable[int]) -> bytes:
    """Little-endian int32 bytes of a sequence of numbers."""
    array = values if isinstance(values, np.ndarray) else np.fromiter(values, _INT32)
    return array.astype(_INT32, copy=False).tobytes()


def unpack(field: str, data: bytes, columns: int = 1) -> Int32Array:
    """Inverse of `pack`; the array is read-only.

    Raises:
        InvalidRequest: the length is not that of rows of so many numbers.
    """
    _check_packed(field, data, 4 * columns)
    return np.frombuffer(data, _INT32)


def unpack_floats(field: str, data: bytes) -> NDArray[np.float32]:
    """Float32 from little-endian bytes; the array is read-only.

    Raises:
        InvalidRequest: the length is not a multiple of four bytes.
    """
    _check_packed(field, data, 4)
    return np.frombuffer(data, _FLOAT32)


def plan_to_proto(plan: StepPlan) -> executor_pb2.StepPlan:
    return executor_pb2.StepPlan(
        step=plan.step,
        copies=pack(plan.copies),
        starts=map(_start_to_proto, plan.starts),
        append_slots=pack(plan.append_slots),
        append_blocks=pack(plan.append_blocks),
        context_slots=pack(plan.context_slots),
        context_tokens=pack(plan.context_tokens),
        generation_slots=pack(plan.generation_slots),
        committed=plan.committed,
    )


def plan_from_proto(plan: executor_pb2.StepPlan, info: ExecutorInfo, newest_step: int) -> StepPlan:
    """A plan for the executor of this description, whose highest plan so far was `newest_step`."""
    found = StepPlan(
        step=plan.step,
        copies=unpack("copies", plan.copies, 2).reshape(-1, 2),
        starts=tuple(_start_from_proto(index, start) for index, start in enumerate(plan.starts)),
        append_slots=unpack("append_slots", plan.append_slots),
        append_blocks=unpack("append_blocks", plan.append_blocks),
        context_slots=unpack("context_slots", plan.context_slots),
        context_tokens=unpack("context_tokens", plan.context_tokens),
        generation_slots=unpack("generation_slots", plan.generation_slots),
        committed=plan.committed,
    )
    validate_plan(found, info, newest_step)
    return found


def result_to_proto(result: StepResult) -> executor_pb2.StepResult:
    return executor_pb2.StepResult(
        step=result.step,
        slots=pack(result.slots),
        token_ids=pack(result.token_ids),
        compute_us=result.compute_us,
        logprobs=logprobs_to_proto(result.logprobs) if result.logprobs is not None else None,
    )


def result_from_proto(result: executor_pb2.StepResult, vocab_size: int) -> StepResult:
    found = StepResult(
        step=result.step,
        slots=unpack("slots", result.slots),
        token_ids=unpack("token_ids", result.token_ids),
        compute_us=result.compute_us,
        logprobs=_logprobs_from_proto(result.logprobs) if result.HasField("logprobs") else None,
    )
    validate_result(found, vocab_size)
    return found


def logprobs_to_proto(logprobs: PackedLogprobs) -> logprobs_pb2.PackedLogprobs:
    return logprobs_pb2.PackedLogprobs(
        owners=pack(logprobs.owners),
        num_top=pack(logprobs.num_top),
        logprobs=logprobs.logprobs.astype(_FLOAT32, copy=False).tobytes(),
        top_token_ids=pack(logprobs.top_token_ids),
    )


def info_to_proto(info: ExecutorInfo) -> executor_pb2.ExecutorInfo:
    return executor_pb2.ExecutorInfo(
        incarnation=info.incarnation,
        fingerprint=info.fingerprint,
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_size=info.max_batch_size,
        eos_token_ids=info.eos_token_ids,
        device=executor_pb2.DeviceKind.ValueType(info.device),
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        committed=info.committed,
    )


def info_from_proto(info: executor_pb2.ExecutorInfo) -> ExecutorInfo:
    found = ExecutorInfo(
        incarnation=info.incarnation,
        fingerprint=info.fingerprint,
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_size=info.max_batch_size,
        eos_token_ids=tuple(info.eos_token_ids),
        device=_device_from_proto(info.device),
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        committed=info.committed,
    )
    validate_info(found)
    return found


def _device_from_proto(kind: executor_pb2.DeviceKind.ValueType) -> DeviceKind:
    try:
        return DeviceKind(kind)
    except ValueError:
        raise InvalidRequest(
            "device", int(kind), f"must be one of {', '.join(map(repr, map(int, DeviceKind)))}"
        ) from None


def submission_to_proto(request: OpenRequest, resumed: bool) -> scheduler_pb2.Submission:
    params = request.params
    return scheduler_pb2.Submission(
        handle=request.handle,
        request_id=request.request_id,
        prompt=pack(request.prompt),
        generated=pack(request.generated),
        sampling=inference_pb2.SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            seed=params.seed,
            max_tokens=params.max_tokens,
            stop_token_ids=params.stop_token_ids,
            ignore_eos=params.ignore_eos,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            logprobs=params.logprobs,
        ),
        priority=request.options.priority,
        cache=cache_to_proto(request.options.cache),
        resumed=resumed,
        interval=request.interval,
    )


def handle_from_proto(field: str, handle: int) -> int:
    """A request's number, which has to fit into packed arrays."""
    check_range(field, handle, 0, MAX_INT32)
    return handle


def submission_from_proto(client: int, submission: scheduler_pb2.Submission) -> Request:
    """A request whose tokens and parameters are still to be compared with the limits of an executor."""
    check_range("request_id", len(submission.request_id.encode()), 0, MAX_REQUEST_ID_BYTES, "bytes")
    check_range("interval", submission.interval, 0, MAX_INTERVAL)
    sampling = submission.sampling
    options = RequestOptions(submission.priority, cache_from_proto(submission.cache))
    validate_options(options)
    return Request(
        request_id=submission.request_id,
        client=client,
        handle=handle_from_proto("handle", submission.handle),
        prompt=unpack("prompt", submission.prompt),
        generated=unpack("generated", submission.generated),
        params=SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            stop_token_ids=tuple(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logprobs=sampling.logprobs if sampling.HasField("logprobs") else None,
        ),
        options=options,
        is_resumed=submission.resumed,
        interval=max(1, submission.interval),
    )


def finished_to_proto(handle: int, finish: Finish) -> scheduler_pb2.SequenceFinished:
    return scheduler_pb2.SequenceFinished(
        handle=handle,
        reason=inference_pb2.FinishReason.ValueType(finish.reason),
        stop_token_id=finish.stop_token_id,
    )


def limits_from_proto(state: scheduler_pb2.ServingState) -> ServingLimits:
    return ServingLimits(state.vocab_size, state.max_model_len, state.num_blocks, state.block_size)


def check_state(state: scheduler_pb2.ServingState) -> None:
    """Raises `InvalidRequest` for a scheduler that serves nothing which a request could be compared with."""
    check_range("epoch", state.epoch, 0, MAX_COUNTER)
    if state.num_executors:
        for field in ("vocab_size", "max_model_len", "num_blocks", "block_size"):
            check_range(field, getattr(state, field), 1, MAX_INT32)


def step_update_from_proto(output: scheduler_pb2.StepOutput, vocab_size: int) -> StepUpdate[int]:
    """What a scheduler that serves a vocabulary of so many tokens sent to this frontend."""
    handles, token_ids = unpack("handles", output.handles), unpack("token_ids", output.token_ids)
    started, cached = unpack("started_handles", output.started_handles), unpack("cached_tokens", output.cached_tokens)
    check_lengths("token_ids", token_ids, "handles", handles)
    check_lengths("cached_tokens", cached, "started_handles", started)
    check_ids("token_ids", token_ids, vocab_size)
    check_ids("cached_tokens", cached, MAX_INT32)
    logprobs = _logprobs_from_proto(output.logprobs) if output.HasField("logprobs") else None
    if logprobs is not None:
        validate_logprobs(logprobs, vocab_size, handles)
    ended: list[tuple[int, Finish | RequestError]] = []
    for finished in output.finished:
        ended.append((finished.handle, _finish_from_proto(finished, vocab_size)))
    for failed in output.failed:
        check_range("failed.code", failed.code, 1, MAX_CODE)
        ended.append((failed.handle, _error_from_proto(failed)))
    return StepUpdate(
        started=list(zip(started.tolist(), cached.tolist(), strict=True)),
        tokens=list(zip(handles.tolist(), token_ids.tolist(), strict=True)),
        logprobs=logprobs.unpack() if logprobs is not None else [],
        ended=ended,
    )


def _finish_from_proto(finished: scheduler_pb2.SequenceFinished, vocab_size: int) -> Finish:
    check_range("finished.reason", finished.reason, min(FinishReason), max(FinishReason))
    if not finished.HasField("stop_token_id"):
        return Finish(FinishReason(finished.reason))
    check_range("finished.stop_token_id", finished.stop_token_id, 0, vocab_size - 1)
    return Finish(FinishReason(finished.reason), finished.stop_token_id)


def _error_from_proto(failed: scheduler_pb2.SequenceFailed) -> RequestError:
    if failed.code == code_pb2.INVALID_ARGUMENT:
        return RefusedRequest(failed.message)
    if failed.code == code_pb2.RESOURCE_EXHAUSTED:
        return Overloaded(failed.message, failed.retry_ms / 1000)
    return Unavailable(failed.message) if failed.retryable else RequestError(failed.message)


def _logprobs_from_proto(logprobs: logprobs_pb2.PackedLogprobs) -> PackedLogprobs:
    return PackedLogprobs(
        owners=unpack("logprobs.owners", logprobs.owners),
        num_top=unpack("logprobs.num_top", logprobs.num_top),
        logprobs=unpack_floats("logprobs.logprobs", logprobs.logprobs),
        top_token_ids=unpack("logprobs.top_token_ids", logprobs.top_token_ids),
    )


def _check_packed(field: str, data: bytes, size: int) -> None:
    if len(data) % size:
        raise InvalidRequest(field, f"{len(data)} bytes", f"must be a multiple of {size} bytes")


def _start_to_proto(start: SequenceStart) -> executor_pb2.SequenceStart:
    return executor_pb2.SequenceStart(
        slot=start.slot,
        token_ids=pack(start.token_ids),
        num_computed=start.num_computed,
        block_table=pack(start.block_table),
        temperature=start.temperature,
        top_k=start.top_k,
        top_p=start.top_p,
        min_p=start.min_p,
        seed=start.seed,
        penalties=_penalties_to_proto(start.penalties) if start.penalties else None,
        logprobs=start.logprobs,
    )


def _start_from_proto(index: int, start: executor_pb2.SequenceStart) -> SequenceStart:
    return SequenceStart(
        slot=start.slot,
        token_ids=unpack(f"starts[{index}].token_ids", start.token_ids),
        num_computed=start.num_computed,
        block_table=unpack(f"starts[{index}].block_table", start.block_table),
        temperature=start.temperature,
        top_k=start.top_k,
        top_p=start.top_p,
        min_p=start.min_p,
        seed=start.seed,
        penalties=_penalties_from_proto(start.penalties) if start.HasField("penalties") else None,
        logprobs=start.logprobs if start.HasField("logprobs") else None,
    )


def _penalties_to_proto(penalties: Penalties) -> executor_pb2.Penalties:
    return executor_pb2.Penalties(
        num_prompt=penalties.num_prompt,
        presence=penalties.presence,
        frequency=penalties.frequency,
        repetition=penalties.repetition,
    )


def _penalties_from_proto(penalties: executor_pb2.Penalties) -> Penalties:
    return Penalties(penalties.num_prompt, penalties.presence, penalties.frequency, penalties.repetition)
