"""Counters of one executor's scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """A moment's view; what is counted is counted since the executor was attached.

    Attributes:
        num_waiting, num_running: sequences now.
        num_blocks, num_free, num_cached, num_held: KV blocks now; the first is the sum of the others.
        num_steps: steps planned.
        num_pauses: sequences paused, each as often as it was.
        num_context_tokens: of all sequences at their starts.
        num_reused_tokens: of these, found in whole cached blocks.
        num_copied_tokens: of these, found in part of a block, which was copied.
        num_recomputed_tokens: computed again, of sequences that go on: behind a pause, or on from another executor or
            scheduler.
        num_evicted: cached blocks that made room.
    """

    num_waiting: int
    num_running: int
    num_blocks: int
    num_free: int
    num_cached: int
    num_held: int
    num_steps: int
    num_pauses: int
    num_context_tokens: int
    num_reused_tokens: int
    num_copied_tokens: int
    num_recomputed_tokens: int
    num_evicted: int
