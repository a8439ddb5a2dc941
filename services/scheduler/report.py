"""What frontends are told of the executors: what can be served, how full the queues are, and what goes on."""

from collections.abc import Collection, Iterable

from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.scheduler.attached_executor import AttachedExecutor


def serving_state(epoch: int, executors: Collection[AttachedExecutor]) -> pb.ServingState:
    """What executors that take requests can serve together: limits are those of the largest pool."""
    largest = max(executors, key=lambda executor: executor.info.num_blocks, default=None)
    if largest is None:
        return pb.ServingState(epoch=epoch)
    info = largest.info
    return pb.ServingState(
        epoch=epoch,
        num_executors=len(executors),
        fingerprint=info.fingerprint,
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        eos_token_ids=info.eos_token_ids,
        tokenizer_fingerprint=max(executor.info.tokenizer_fingerprint for executor in executors),
        logits_processors=sorted(set.intersection(*(set(executor.info.logits_processors) for executor in executors))),
    )


def room(executors: Iterable[AttachedExecutor]) -> int:
    """Requests that may still be queued."""
    return sum(executor.scheduler.queue_room for executor in executors)


def queue_state(executors: Collection[AttachedExecutor]) -> pb.QueueState:
    """How full the queues of executors that take requests are."""
    retry_after = max((executor.scheduler.retry_after for executor in executors), default=0)
    return pb.QueueState(room=min(room(executors), 2**32 - 1), retry_ms=int(1000 * retry_after))


def load(executors: Iterable[AttachedExecutor], num_unplaced: int) -> pb.Load:
    """What all executors do, for frontends' metrics.

    Args:
        num_unplaced: sequences that wait for an executor that can hold them.
    """
    found = pb.Load(num_waiting=num_unplaced)
    for executor in executors:
        scheduler = executor.scheduler
        found.num_waiting += scheduler.num_waiting
        found.num_running += scheduler.num_running
        found.num_blocks += scheduler.pool.num_blocks
        found.num_held += scheduler.pool.num_blocks - scheduler.pool.num_available
        found.num_pauses += scheduler.num_pauses
    return found
