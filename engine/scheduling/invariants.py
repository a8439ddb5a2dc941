"""What must hold whatever schedules: a plug-in that breaks it ends with its name and the invariant's.

Checks that cost time for each block run for plug-ins only; Quire's own classes are held to them by their tests.
"""

from collections.abc import Iterable
from collections.abc import Sequence as List
from types import TracebackType
from typing import Self

from quire.engine.api.errors import PluginError, QuireError
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.resources.prefix import in_group
from quire.engine.scheduled_step import ContextChunk, ScheduledStep
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.micro_batch.base import MicroBatchScheduler
from quire.engine.sequence import Sequence, SequenceState

RUNNING = (SequenceState.CONTEXT, SequenceState.GENERATION)


class PluginGuard:
    """As a context: an exception that a plug-in's own code raised becomes a `PluginError` with the plug-in's name.

    Args:
        parts: whatever schedules, plug-ins or Quire's own.
    """

    def __init__(self, parts: Iterable[object]) -> None:
        self._plugins = tuple(part for part in parts if not is_own(part))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, QuireError) or not self._plugins:
            return
        if (culprit := self.culprit(trace)) is not None:
            raise PluginError(culprit, f"raised {type(error).__name__}: {error}") from error

    def culprit(self, trace: TracebackType | None) -> object | None:
        """The plug-in in whose module the innermost frames were; None if no frame was in one."""
        modules = {type(part).__module__: part for part in self._plugins}
        found = None
        while trace is not None:
            found = modules.get(trace.tb_frame.f_globals.get("__name__", ""), found)
            trace = trace.tb_next
        return found


def is_own(part: object) -> bool:
    """Whether Quire itself brings it."""
    return type(part).__module__.startswith("quire.")


def check_victims(capacity: CapacityScheduler, victims: List[Sequence]) -> None:
    """Only what runs can be paused, and once."""
    if len(set(victims)) != len(victims) or not all(victim.state in RUNNING for victim in victims):
        raise PluginError(capacity, "broke the invariant: victims are running sequences, each named once")


def check_start(capacity: CapacityScheduler, kv: KVCacheManager, sequence: Sequence) -> None:
    """The blocks of a starting sequence are free, and enough are set aside for its context."""
    least, reserved = kv.num_blocks(sequence.num_context), sequence.num_reserved
    if reserved < least:
        raise PluginError(
            capacity,
            f"broke the invariant: a reservation covers the context of {least} blocks, got {reserved}",
        )
    if is_own(capacity):
        return
    needed = kv.num_needed(sequence, reserved)
    if needed > kv.num_unpromised:
        raise PluginError(
            capacity,
            f"broke the invariant: a sequence starts only if its blocks are free; it needs {needed} of "
            f"{kv.num_unpromised}",
        )


def check_order(capacity: CapacityScheduler, sequence: Sequence) -> None:
    """Only what waits can start."""
    if sequence.state is not SequenceState.WAITING:
        raise PluginError(capacity, f"broke the invariant: only waiting sequences start; one is {sequence.state.name}")


def check_chunks(micro_batch: MicroBatchScheduler, chunks: List[ContextChunk], room: int) -> None:
    """Chunks go on where the last ones ended, end within the context, and fit the step.

    Args:
        room: tokens that the step has beside those that generate.
    """
    for chunk in chunks:
        sequence = chunk.sequence
        if not sequence.num_scheduled == chunk.start < chunk.end <= sequence.num_context:
            raise PluginError(
                micro_batch,
                f"broke the invariant: a chunk is [{sequence.num_scheduled}, end) with end at most "
                f"{sequence.num_context}, got [{chunk.start}, {chunk.end})",
            )
    total = sum(chunk.end - chunk.start for chunk in chunks)
    if total > room:
        raise PluginError(micro_batch, f"broke the invariant: a step has room for {room} context tokens, got {total}")
    if len({chunk.sequence for chunk in chunks}) != len(chunks):
        raise PluginError(micro_batch, "broke the invariant: a sequence has one chunk in a step")


def check_prefix(kv: KVCacheManager, sequence: Sequence) -> None:
    """A started sequence holds the cached blocks of its own prefix, and has a token left to compute."""
    if is_own(kv):
        return
    for group, table in enumerate(sequence.tables):
        for index in range(table.num_gone, sequence.num_scheduled // kv.block_size):
            block = table.blocks[index]
            if kv.pool.state.hashes.get(block) != in_group(sequence.hashes[index], group):
                raise PluginError(
                    kv,
                    f"broke the invariant: a shared block has the hash of the prefix; block {block} is not that of "
                    f"position {index * kv.block_size}",
                )
    if sequence.num_scheduled >= sequence.num_context:
        raise PluginError(kv, "broke the invariant: at least one token of a context is left to compute")


def check_tables(kv: KVCacheManager, step: ScheduledStep) -> None:
    """Every position that a step writes has a block that its sequence alone holds and nobody can find."""
    if is_own(kv):
        return
    size = kv.block_size
    for chunk in step.chunks:
        first, end = chunk.start // size, -(-chunk.end // size)
        for table in chunk.sequence.tables:
            written = table.blocks[first:end]
            if len(written) != end - first:
                raise PluginError(kv, f"broke the invariant: blocks cover the tokens computed, {chunk.end}")
            _check_written(kv, table.holder, written)
    for sequence in step.growing:
        for table in sequence.tables:
            _check_written(kv, table.holder, table.blocks[-1:])


def _check_written(kv: KVCacheManager, holder: str, blocks: List[int]) -> None:
    state = kv.pool.state
    held = state.holds.get(holder, {})
    for block in blocks:
        if block not in held or state.refs[block] != 1 or block in state.hashes:
            raise PluginError(
                kv,
                f"broke the invariant: block {block} is written by the one sequence that holds it, and not published",
            )
