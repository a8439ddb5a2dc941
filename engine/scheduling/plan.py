"""A scheduled step as the plan that travels to the executor."""

from collections.abc import Iterable

import numpy as np

from quire.engine.arrays import Int32Array
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.sequence import Sequence
from quire.engine.step import SequenceStart, StepPlan


def make_plan(step: ScheduledStep, committed: int, num_groups: int = 1) -> StepPlan:
    """The plan of a step whose resources are prepared.

    Args:
        committed: as in `StepPlan`.
        num_groups: cache groups of the executor.
    """
    begins = {chunk.sequence: chunk.start for chunk in step.chunks}
    appended = np.array(step.appended, np.int32).reshape(-1, 1 + num_groups)
    return StepPlan(
        step=step.number,
        copies=np.array(step.copies, np.int32).reshape(-1, 2),
        starts=tuple(_start(sequence, begins[sequence]) for sequence in step.starts),
        append_slots=appended[:, 0],
        append_blocks=appended[:, 1:].ravel(),
        context_slots=_int32(chunk.sequence.slot for chunk in step.chunks),
        context_tokens=_int32(chunk.end - chunk.start for chunk in step.chunks),
        generation_slots=step.generation,
        committed=committed,
    )


def _start(sequence: Sequence, num_computed: int) -> SequenceStart:
    return SequenceStart(
        slot=sequence.slot,
        token_ids=np.array(sequence.tokens, np.int32),
        num_computed=num_computed,
        block_table=np.array([table.blocks for table in sequence.tables], np.int32).ravel(),
        num_prompt=sequence.num_prompt,
        sampling=sequence.request.params,
        trace=sequence.trace,
        adapter="" if sequence.request.adapter is None else sequence.request.adapter.digest,
    )


def _int32(values: Iterable[int]) -> Int32Array:
    return np.fromiter(values, np.int32)
