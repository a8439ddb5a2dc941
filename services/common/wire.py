"""The one place that knows both the internal protocol's messages and the engine's types.

Arrays travel as packed little-endian int32 (log-probabilities: float32). Numpy has the same layout in memory on all
supported machines, so packing and unpacking cost one copy.
"""

from collections.abc import Iterable

import numpy as np

from quire.engine.api.completion import FinishReason
from quire.engine.api.limits import ServingLimits
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs
from quire.engine.open_request import OpenRequest
from quire.engine.request import Request
from quire.engine.step import ExecutorInfo, Penalties, SequenceStart, StepPlan, StepResult
from quire.protos.convert import cache_from_proto, cache_to_proto
from quire.v1 import executor_pb2, inference_pb2, logprobs_pb2, scheduler_pb2

_INT32 = np.dtype("<i4")
_FLOAT32 = np.dtype("<f4")

# Trailing metadata of an executor's refusal: the epoch that it obeys.
EPOCH_METADATA = "quire-epoch"


def pack(values: Int32Array | Iterable[int]) -> bytes:
    """Little-endian int32 bytes of a sequence of numbers."""
    array = values if isinstance(values, np.ndarray) else np.fromiter(values, _INT32)
    return array.astype(_INT32, copy=False).tobytes()


def unpack(data: bytes) -> Int32Array:
    """Inverse of `pack`; the array is read-only.

    Raises:
        ValueError: the length is not a multiple of four bytes.
    """
    return np.frombuffer(data, _INT32)


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


def plan_from_proto(plan: executor_pb2.StepPlan) -> StepPlan:
    return StepPlan(
        step=plan.step,
        copies=unpack(plan.copies).reshape(-1, 2),
        starts=tuple(map(_start_from_proto, plan.starts)),
        append_slots=unpack(plan.append_slots),
        append_blocks=unpack(plan.append_blocks),
        context_slots=unpack(plan.context_slots),
        context_tokens=unpack(plan.context_tokens),
        generation_slots=unpack(plan.generation_slots),
        committed=plan.committed,
    )


def result_to_proto(result: StepResult) -> executor_pb2.StepResult:
    return executor_pb2.StepResult(
        step=result.step,
        slots=pack(result.slots),
        token_ids=pack(result.token_ids),
        compute_us=result.compute_us,
        logprobs=logprobs_to_proto(result.logprobs) if result.logprobs is not None else None,
    )


def result_from_proto(result: executor_pb2.StepResult) -> StepResult:
    logprobs = logprobs_from_proto(result.logprobs) if result.HasField("logprobs") else None
    return StepResult(result.step, unpack(result.slots), unpack(result.token_ids), result.compute_us, logprobs)


def logprobs_to_proto(logprobs: PackedLogprobs) -> logprobs_pb2.PackedLogprobs:
    return logprobs_pb2.PackedLogprobs(
        owners=pack(logprobs.owners),
        num_top=pack(logprobs.num_top),
        logprobs=logprobs.logprobs.astype(_FLOAT32, copy=False).tobytes(),
        top_token_ids=pack(logprobs.top_token_ids),
    )


def logprobs_from_proto(logprobs: logprobs_pb2.PackedLogprobs) -> PackedLogprobs:
    return PackedLogprobs(
        owners=unpack(logprobs.owners),
        num_top=unpack(logprobs.num_top),
        logprobs=np.frombuffer(logprobs.logprobs, _FLOAT32),
        top_token_ids=unpack(logprobs.top_token_ids),
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
        step_tokens=info.step_tokens,
        itl_ms=info.itl_ms,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        committed=info.committed,
    )


def info_from_proto(info: executor_pb2.ExecutorInfo) -> ExecutorInfo:
    return ExecutorInfo(
        incarnation=info.incarnation,
        fingerprint=info.fingerprint,
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_size=info.max_batch_size,
        eos_token_ids=tuple(info.eos_token_ids),
        step_tokens=info.step_tokens,
        itl_ms=info.itl_ms,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        committed=info.committed,
    )


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


def submission_from_proto(client: int, submission: scheduler_pb2.Submission) -> Request:
    sampling = submission.sampling
    return Request(
        request_id=submission.request_id,
        client=client,
        handle=submission.handle,
        prompt=unpack(submission.prompt),
        generated=unpack(submission.generated),
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
        options=RequestOptions(submission.priority, cache_from_proto(submission.cache)),
        is_resumed=submission.resumed,
        interval=max(1, submission.interval),
    )


def finished_to_proto(handle: int, reason: FinishReason, stop_token_id: int | None) -> scheduler_pb2.SequenceFinished:
    return scheduler_pb2.SequenceFinished(
        handle=handle, reason=inference_pb2.FinishReason.ValueType(reason), stop_token_id=stop_token_id
    )


def limits_from_proto(state: scheduler_pb2.ServingState) -> ServingLimits:
    return ServingLimits(state.vocab_size, state.max_model_len, state.num_blocks, state.block_size)


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


def _start_from_proto(start: executor_pb2.SequenceStart) -> SequenceStart:
    return SequenceStart(
        slot=start.slot,
        token_ids=unpack(start.token_ids),
        num_computed=start.num_computed,
        block_table=unpack(start.block_table),
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
