"""The `SlotPenalties`: what tokens the penalised slots have had, counted where they are sampled."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.step import SequenceStart
from quire.kernels.penalties import GENERATED, IN_PROMPT, PenaltyRows


def counts_bytes(num_slots: int, vocab_size: int) -> int:
    """Bytes of the counts on the device once every slot was penalised."""
    return num_slots * vocab_size * torch.int32.itemsize


class SlotPenalties(LogitsProcessor[PenaltyRows]):
    """Sizes of the penalties on the host, counts of tokens on the device; nothing of either for other slots.

    Counts take vocab_size * 4 bytes for each slot up to the highest that was ever penalised, in powers of two, at most
    for `num_slots`. The newest token may not have reached the host when the next step is planned: the device counts.

    Args:
        penalize: the backend's.
    """

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, penalize: Callable[[Tensor, PenaltyRows], None]
    ) -> None:
        self._num_slots = num_slots
        self._vocab_size = vocab_size
        self._penalize = penalize
        self._presence = np.zeros(num_slots, np.float32)
        self._frequency = np.zeros(num_slots, np.float32)
        self._repetition = np.ones(num_slots, np.float32)
        self._counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)
        # Places among all counts and what to write there, of slots that have not sampled since they started.
        self._started: dict[int, tuple[NDArray[np.int64], Int32Array]] = {}

    def wants(self, params: SamplingParams) -> bool:
        return params.is_penalized

    def reset(self) -> None:
        self._started.clear()

    def start(self, start: SequenceStart) -> None:
        slot, params = start.slot, start.sampling
        self._presence[slot] = params.presence_penalty
        self._frequency[slot] = params.frequency_penalty
        self._repetition[slot] = params.repetition_penalty
        known, index = np.unique(start.token_ids, return_inverse=True)
        generated = np.bincount(index[start.num_prompt :], minlength=len(known))
        counts = (GENERATED * generated).astype(np.int32)
        counts[index[: start.num_prompt]] += IN_PROMPT
        self._started[slot] = slot * self._vocab_size + known.astype(np.int64), counts

    def arrays(self, step: FeatureStep) -> Arrays:
        slots = step.slots
        arrays: Arrays = {
            "rows": step.rows,
            "slots": slots.astype(np.int64),
            "presence": self._presence[slots],
            "frequency": self._frequency[slots],
            "repetition": self._repetition[slots],
        }
        if self._started and (started := [slot for slot in slots.tolist() if slot in self._started]):
            places, counts = zip(*map(self._started.pop, started), strict=True)
            arrays["started"] = np.array(started, np.int64)
            arrays["places"], arrays["counts"] = np.concatenate(places), np.concatenate(counts)
            self._reserve(max(started))
        return arrays

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> PenaltyRows:
        """Writes the counts of slots that started."""
        if "started" in there:
            self._counts.index_fill_(0, there["started"], 0)
            self._counts.view(-1).scatter_(0, there["places"], there["counts"])
        return PenaltyRows(
            rows=there["rows"],
            slots=there["slots"],
            counts=self._counts,
            presence=there["presence"],
            frequency=there["frequency"],
            repetition=there["repetition"],
        )

    def process(self, logits: Tensor, rows: PenaltyRows) -> None:
        self._penalize(logits, rows)

    def advance(self, rows: PenaltyRows, token_ids: Tensor) -> None:
        # Slots are distinct, so that no two additions meet.
        rows.counts[rows.slots, token_ids[rows.rows]] += GENERATED

    def _reserve(self, slot: int) -> None:
        if slot >= len(self._counts):
            size = min(1 << slot.bit_length(), self._num_slots)
            grown = self._counts.new_zeros(size, self._vocab_size)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
