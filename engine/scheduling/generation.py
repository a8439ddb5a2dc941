"""The generating sequences as arrays over slots, so that a steady step costs a few vector operations."""

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from quire.engine.arrays import Int32Array
from quire.engine.sequence import Sequence


class GenerationBatch:
    """Slots in generation, and how far each is planned and computed.

    For a slot with `scheduled` = p, the KV of positions 0 … p-1 is computed or in flight. The next step feeds the token
    at position p, which the step before samples, and samples the token at p + 1.
    """

    def __init__(self, num_slots: int, block_size: int) -> None:
        self._block_size = block_size
        self._scheduled: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self._computed: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self._max_len: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self._members: dict[int, Sequence] = {}
        self._slots: Int32Array = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def slots(self) -> Int32Array:
        """Slots of the members in the order of entry; a new array after every change."""
        if len(self._slots) != len(self._members):
            self._slots = np.fromiter(self._members, np.int32, len(self._members))
        return self._slots

    @property
    def members(self) -> Collection[Sequence]:
        """Those that generate, as `slots`."""
        return self._members.values()

    @property
    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(tokens whose KV is computed or in flight, tokens whose KV it has in the end) of the members."""
        slots = self.slots
        return self._scheduled[slots], self._max_len[slots] - 1

    def enter(self, sequence: Sequence) -> None:
        """Joins once the whole context is planned; not if the token that the context samples is the last."""
        slot = sequence.slot
        self._scheduled[slot] = self._computed[slot] = sequence.num_context
        self._max_len[slot] = sequence.max_len
        if sequence.num_context + 1 < sequence.max_len:
            self._members[slot] = sequence
            self._slots = np.empty(0, np.int32)

    def leave(self, slot: int) -> None:
        """Harmless if the slot does not generate."""
        if slot in self._members:
            del self._members[slot]
            self._slots = np.empty(0, np.int32)

    def growing(self) -> list[int]:
        """Slots whose next token is the first of a block, in the order of entry."""
        slots = self.slots
        growing: list[int] = slots[self._scheduled[slots] % self._block_size == 0].tolist()
        return growing

    def num_growing(self, num_steps: int) -> int:
        """How many begin a block within the next steps, at most one each."""
        return int(np.count_nonzero(-self._scheduled[self.slots] % self._block_size < num_steps))

    def num_blocks_ahead(self, num_tokens: int) -> int:
        """Blocks that all members together take for their next tokens, none beyond its end."""
        lengths, ends = self.lengths
        held = -(-lengths // self._block_size)
        ends = np.minimum(lengths + num_tokens, ends)
        return int(np.maximum(0, -(-ends // self._block_size) - held).sum())

    def advance(self, stalled: Iterable[int] = ()) -> Int32Array:
        """Plans one token for every member but the stalled and returns their slots; those at their end leave."""
        slots = self.slots
        excluded = list(stalled)
        if excluded:
            slots = slots[~np.isin(slots, excluded)]
        self._scheduled[slots] += 1
        for slot in slots[self._scheduled[slots] + 1 >= self._max_len[slots]].tolist():
            self.leave(slot)
        return slots

    def complete(self, slots: Int32Array) -> list[tuple[int, int]]:
        """Takes note of a step's result; (slot, tokens computed) where a block became full."""
        self._computed[slots] += 1
        computed = self._computed[slots]
        full = computed % self._block_size == 0
        return list(zip(slots[full].tolist(), computed[full].tolist(), strict=True))
