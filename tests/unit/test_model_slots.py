"""Slots against a model of them in plain Python, one token at a time."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engine.api.errors import InvalidRequest
from quire.engine.model.batch import Batch
from quire.engine.model.slots import Slots
from quire.engine.step import SequenceStart, StepPlan
from support.starts import sequence_start

NUM_SLOTS = 4
BLOCK_SIZE = 3
NUM_BLOCKS = 1000
MAX_MODEL_LEN = 24
VOCAB = 50


def new_slots() -> Slots:
    return Slots(
        num_slots=NUM_SLOTS,
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        vocab_size=VOCAB,
        device=torch.device("cpu"),
    )


def ints(values: Any) -> NDArray[np.int32]:
    """Read-only, as an array that views a received message."""
    array = np.array(values, np.int32)
    array.flags.writeable = False
    return array


def plan(**changes: Any) -> StepPlan:
    empty: dict[str, Any] = {
        "step": 1, "copies": np.empty((0, 2), np.int32), "starts": (), "append_slots": ints([]),
        "append_blocks": ints([]), "context_slots": ints([]), "context_tokens": ints([]),
        "generation_slots": ints([]),
    }  # fmt: skip
    return StepPlan(**(empty | changes))


@dataclass
class Model:
    """What a sequence is, said plainly."""

    tokens: list[int]
    num_known: int
    computed: int
    blocks: list[int]
    temperature: float
    top_k: int
    seed: int


@dataclass
class Expected:
    """A batch as lists, filled one token at a time."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    mapping: list[int] = field(default_factory=list)
    tables: list[list[int]] = field(default_factory=list)
    lens: list[int] = field(default_factory=list)
    sampling: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    def row(self, slot: int, model: Model, count: int) -> None:
        for position in range(model.computed, model.computed + count):
            self.ids.append(model.tokens[position])
            self.positions.append(position)
            self.mapping.append(model.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        self.lens.append(model.computed + count)
        self.tables.append(model.blocks[: -(-self.lens[-1] // BLOCK_SIZE)])
        if model.computed + count == len(model.tokens):
            self.sampling.append(slot)
            self.last.append(len(self.ids) - 1)


def check(batch: Batch, expected: Expected, models: dict[int, Model]) -> None:
    (paged,) = batch.paged
    assert batch.input_ids.tolist() == expected.ids
    assert paged.positions.tolist() == expected.positions
    assert paged.slot_mapping.tolist() == expected.mapping
    assert paged.kv_lens.tolist() == expected.lens
    assert np.diff(paged.qo_indptr).tolist() == batch.num_tokens.tolist()
    assert [part.tolist() for part in np.split(paged.kv_indices, paged.kv_indptr[1:-1])] == (expected.tables or [[]])
    assert batch.sampling_slots.tolist() == expected.sampling
    assert batch.last_tokens.tolist() == expected.last
    draw = [(row, models[slot]) for row, slot in enumerate(expected.sampling) if models[slot].temperature > 0]
    rows = batch.sampling
    assert rows.drawn.tolist() == [row for row, _ in draw]
    assert rows.seed.view(torch.uint64).tolist() == [model.seed for _, model in draw]
    assert rows.position.tolist() == [len(model.tokens) for _, model in draw]
    filtered = [index for index, (_, model) in enumerate(draw) if model.top_k]
    assert rows.filtered.tolist() == filtered
    assert rows.top_k.tolist() == [draw[index][1].top_k for index in filtered]


def draw_start(data: st.DataObject, models: dict[int, Model], slot: int, free: list[int]) -> SequenceStart:
    tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12))
    blocks = [free.pop() for _ in range(data.draw(st.integers(0, 4)))]
    computed = data.draw(st.integers(0, min(len(tokens) - 1, len(blocks) * BLOCK_SIZE)))
    temperature, top_k = data.draw(st.sampled_from([0.0, 0.5])), data.draw(st.sampled_from([0, 3]))
    seed = data.draw(st.integers(0, 2**64 - 1))
    models[slot] = Model(tokens, len(tokens), computed, blocks, temperature, top_k, seed)
    return sequence_start(slot, tokens, blocks, computed, temperature=temperature, top_k=top_k, seed=seed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_batches_are_those_of_a_plain_model(data: st.DataObject) -> None:
    slots, models, free = new_slots(), dict[int, Model](), list(range(NUM_BLOCKS))
    for _ in range(data.draw(st.integers(1, 8))):
        started = data.draw(st.sets(st.integers(0, NUM_SLOTS - 1), max_size=2))
        starts = tuple(draw_start(data, models, slot, free) for slot in started)
        context: dict[int, int] = {}
        generation: list[int] = []
        for slot in data.draw(st.permutations(sorted(models))):
            model = models[slot]
            if model.computed < model.num_known:
                context[slot] = data.draw(st.integers(0, model.num_known - model.computed))
            elif len(model.tokens) <= MAX_MODEL_LEN and data.draw(st.booleans()):
                generation.append(slot)
        context = {slot: count for slot, count in context.items() if count}
        appended = []
        rows = [*context.items(), *((slot, 1) for slot in generation)]
        expected = Expected()
        for slot, count in rows:
            model = models[slot]
            while len(model.blocks) * BLOCK_SIZE < model.computed + count:
                model.blocks.append(free.pop())
                appended.append((slot, model.blocks[-1]))
            expected.row(slot, model, count)
        batch = slots.apply(
            plan(
                starts=starts,
                append_slots=ints([slot for slot, _ in appended]),
                append_blocks=ints([block for _, block in appended]),
                context_slots=ints(list(context)),
                context_tokens=ints(list(context.values())),
                generation_slots=ints(generation),
            )
        )
        check(batch, expected, models)
        sampled = data.draw(
            st.lists(st.integers(0, VOCAB - 1), min_size=len(expected.sampling), max_size=len(expected.sampling))
        )
        slots.advance(batch, torch.tensor(sampled, dtype=torch.int64))
        for slot, count in rows:
            models[slot].computed += count
        for slot, token in zip(expected.sampling, sampled, strict=True):
            models[slot].tokens.append(token)


def test_the_blocks_of_two_slots_may_arrive_interleaved() -> None:
    slots = new_slots()
    starts = (sequence_start(0, range(9), [1]), sequence_start(2, range(8), []))
    batch = slots.apply(
        plan(
            starts=starts,
            append_slots=ints([2, 0, 2, 0, 2]),
            append_blocks=ints([7, 2, 8, 3, 9]),
            context_slots=ints([0, 2]),
            context_tokens=ints([9, 8]),
        )
    )
    assert batch.paged[0].kv_indices.tolist() == [1, 2, 3, 7, 8, 9]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"starts": (sequence_start(9, [1], [0]),)}, r"starts.slot: must be 0 to 3, got \[9\]"),
        (
            {"starts": (sequence_start(1, [1, 2], [0], 2),)},
            "num_computed: must be below the 2 tokens of slot 1, .* got 2",
        ),
        ({"starts": (sequence_start(1, [], []),)}, "num_computed: must be below the 0 tokens"),
        ({"starts": (sequence_start(1, [0] * 25, []),)}, "at most 24"),
        ({"starts": (sequence_start(1, [50], []),)}, "starts.token_ids: must be 0 to 49"),
        ({"starts": (sequence_start(1, [1], [1000]),)}, "append_blocks: must be 0 to 999"),
        ({"starts": (sequence_start(1, [1], range(9)),)}, "must be given at most 8 blocks, got 1"),
        ({"append_slots": ints([0]), "append_blocks": ints([-1])}, "append_blocks: must be 0 to 999"),
        ({"append_slots": ints([4]), "append_blocks": ints([1])}, r"append_slots: must be 0 to 3, got \[4\]"),
        (
            {"context_slots": ints([0]), "context_tokens": ints([5])},
            r"must have blocks .*, got \[0\]",
        ),
        (
            {"context_slots": ints([0]), "context_tokens": ints([3])},
            r"context_slots: must know .*, got \[0\]",
        ),
        (
            {"context_slots": ints([0]), "context_tokens": ints([0])},
            r"context_slots: must know .*, got \[0\]",
        ),
        ({"context_slots": ints([-1]), "context_tokens": ints([1])}, r"context_slots.*: must be 0 to 3, got \[-1\]"),
        ({"generation_slots": ints([0])}, r"generation_slots: must have computed all .*, got \[0\]"),
        ({"generation_slots": ints([4])}, r"generation_slots: must be 0 to 3, got \[4\]"),
        (
            {"context_slots": ints([0]), "context_tokens": ints([1]), "generation_slots": ints([0])},
            "must not be in step . twice",
        ),
    ],
)
def test_a_plan_that_contradicts_the_slots_is_refused(change: dict[str, Any], complaint: str) -> None:
    slots = new_slots()
    slots.apply(plan(starts=(sequence_start(0, [1, 2], [0]),)))
    with pytest.raises(InvalidRequest, match=complaint):
        slots.apply(plan(**change))
