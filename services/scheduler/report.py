"""What frontends are told of the executors: what can be served, how full the queues are, and what goes on."""

from collections.abc import Collection, Iterable

from quire.engine.api.adapter import Adapter
from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.common import wire
from quire.services.scheduler.attached_executor import AttachedExecutor


def serving_state(
    epoch: int, executors: Collection[AttachedExecutor], impediment: str = "", adapters: Iterable[Adapter] = ()
) -> pb.ServingState:
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
        cache_windows=info.cache_windows,
        tokenizer_fingerprint=max(executor.info.tokenizer_fingerprint for executor in executors),
        impediment=impediment,
        num_adapters=min(executor.info.num_adapters for executor in executors),
        adapters=map(wire.adapter_to_proto, adapters),
        logits_processors=sorted(set.intersection(*(set(executor.info.logits_processors) for executor in executors))),
    )


def room(executors: Iterable[AttachedExecutor]) -> int:
    """Requests that may still be queued."""
    return sum(executor.scheduler.queue_room for executor in executors)


def full_tenants(executors: Iterable[AttachedExecutor]) -> frozenset[str]:
    """Tenants of whom nothing may be queued, on no executor."""
    found = [executor.scheduler.full_tenants for executor in executors]
    return frozenset(set.intersection(*found)) if found else frozenset()


def queue_state(executors: Collection[AttachedExecutor]) -> pb.QueueState:
    """How full the queues of executors that take requests are."""
    retry_after = max((executor.scheduler.retry_after for executor in executors), default=0)
    return pb.QueueState(
        room=min(room(executors), 2**32 - 1), retry_ms=int(1000 * retry_after), full_tenants=full_tenants(executors)
    )


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
