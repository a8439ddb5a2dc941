"""The `SlotPenalties`: what tokens the penalised slots have had, counted where they are sampled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.step import SequenceStart
from quire.kernels.penalties import GENERATED, IN_PROMPT, PenaltyRows


def counts_bytes(num_slots: int, vocab_size: int) -> int:
    """Bytes of the counts on the device once every slot was penalised."""
    return num_slots * vocab_size * torch.int32.itemsize


class SlotPenalties:
    """Sizes of the penalties on the host, counts of tokens on the device; nothing of either for other slots.

    Counts take vocab_size * 4 bytes for each slot up to the highest that was ever penalised, in powers of two, at most
    for `num_slots`. The newest token may not have reached the host when the next step is planned: the device counts.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._num_slots = num_slots
        self._vocab_size = vocab_size
        self._penalized: set[int] = set()
        self._presence = np.zeros(num_slots, np.float32)
        self._frequency = np.zeros(num_slots, np.float32)
        self._repetition = np.ones(num_slots, np.float32)
        self._counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)
        # Places among all counts and what to write there, of slots that started since the last step.
        self._started: dict[int, tuple[NDArray[np.int64], Int32Array]] = {}

    def reset(self) -> None:
        """Forget every slot."""
        self._penalized.clear()
        self._started.clear()

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot, with valid tokens."""
        slot, penalties = start.slot, start.penalties
        self._penalized.discard(slot)
        self._started.pop(slot, None)
        if penalties is None:
            return
        self._penalized.add(slot)
        self._presence[slot] = penalties.presence
        self._frequency[slot] = penalties.frequency
        self._repetition[slot] = penalties.repetition
        known, index = np.unique(start.token_ids, return_inverse=True)
        generated = np.bincount(index[penalties.num_prompt :], minlength=len(known))
        counts = (GENERATED * generated).astype(np.int32)
        counts[index[: penalties.num_prompt]] += IN_PROMPT
        self._started[slot] = slot * self._vocab_size + known.astype(np.int64), counts

    def arrays(self, slots: Int32Array) -> dict[str, NDArray[Any]]:
        """Arrays that `rows` needs on the device for a step in which these slots sample; usually nothing."""
        arrays: dict[str, NDArray[Any]] = {}
        if not self._penalized:
            return arrays
        if self._started:
            places, counts = zip(*self._started.values(), strict=True)
            arrays["counted_slots"] = np.fromiter(self._started, np.int64)
            arrays["counted_places"], arrays["counted"] = np.concatenate(places), np.concatenate(counts)
        penalized = np.flatnonzero(np.isin(slots, list(self._penalized)))
        if len(penalized):
            slots = slots[penalized]
            arrays["penalized"], arrays["penalized_slots"] = penalized, slots.astype(np.int64)
            arrays["presence"], arrays["frequency"] = self._presence[slots], self._frequency[slots]
            arrays["repetition"] = self._repetition[slots]
        return arrays

    def rows(self, there: Mapping[str, Tensor]) -> PenaltyRows | None:
        """Writes the counts of slots that started; the step's rows, or None if none is penalised."""
        if "counted" in there:
            self._reserve(max(self._started))
            self._started.clear()
            self._counts.index_fill_(0, there["counted_slots"], 0)
            self._counts.view(-1).scatter_(0, there["counted_places"], there["counted"])
        if "penalized" not in there:
            return None
        return PenaltyRows(
            rows=there["penalized"],
            slots=there["penalized_slots"],
            counts=self._counts,
            presence=there["presence"],
            frequency=there["frequency"],
            repetition=there["repetition"],
        )

    def advance(self, rows: PenaltyRows | None, token_ids: Tensor) -> None:
        """The step sampled `token_ids`, int64 [num_sampling], on the device."""
        if rows is not None:
            # Slots are distinct, so that no two additions meet.
            rows.counts[rows.slots, token_ids[rows.rows]] += GENERATED

    def _reserve(self, slot: int) -> None:
        if slot >= len(self._counts):
            size = min(1 << slot.bit_length(), self._num_slots)
            grown = self._counts.new_zeros(size, self._vocab_size)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
