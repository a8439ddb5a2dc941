"""The `Slots`: what an executor remembers of its sequences between steps. Knows neither weights nor cache.

Counters and block tables are arrays over all slots, on the host. A step of generation rows costs a fixed number of
array operations. The newest token of each slot lives on the device and is never waited for.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.model.batch import Batch
from quire.engine.model.logprobs import SlotLogprobs
from quire.engine.model.penalties import SlotPenalties
from quire.engine.model.sampling import SlotSampling
from quire.engine.model.staging import Staging
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.attention import PagedBatch

_NOTHING: Final = np.empty(0, np.int64)


class Slots:
    """State of `num_slots` sequences.

    Of one slot, with `known` the tokens it started with and `S` the sampled ones:

        known known known known known S S S
        └─ num_computed ─▶│           │   │
        └─ num_known ────────────────▶│   │
        └─ num_tokens ───────────────────▶│

    The tokens before num_computed have their keys and values in the blocks of the slot's table.
    """

    def __init__(
        self, *, num_slots: int, max_model_len: int, block_size: int, num_blocks: int, vocab_size: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._block_size = block_size
        self._num_blocks = num_blocks
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._staging = Staging(device)
        self._known: list[Int32Array] = [np.empty(0, np.int32)] * num_slots
        self._num_known = np.zeros(num_slots, np.int32)
        self._num_computed = np.zeros(num_slots, np.int32)
        self._num_tokens = np.zeros(num_slots, np.int32)
        self._block_table = np.zeros((num_slots, -(-max_model_len // block_size)), np.int32)
        self._num_table = np.zeros(num_slots, np.int32)
        self._sampling = SlotSampling(num_slots, device)
        self._penalties = SlotPenalties(num_slots, vocab_size, device)
        self._logprobs = SlotLogprobs(num_slots, vocab_size)
        self._newest = torch.zeros(num_slots, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Empty every slot."""
        self._known = [np.empty(0, np.int32)] * len(self._known)
        for counter in (self._num_known, self._num_computed, self._num_tokens, self._num_table):
            counter[:] = 0
        self._penalties.reset()
        self._logprobs.reset()

    def apply(self, plan: StepPlan) -> Batch:
        """Take in what the plan changes and build its step; `advance` completes it.

        Raises:
            ValueError: the plan contradicts the slots; the slots are then in no usable state but `reset`.
        """
        for start in plan.starts:
            self._start(start)
        self._append_blocks(plan.append_slots, plan.append_blocks)
        slots = np.concatenate((plan.context_slots, plan.generation_slots))
        generated = np.ones_like(plan.generation_slots)
        num_tokens = np.concatenate((plan.context_tokens, generated))
        self._check_rows(plan, slots, num_tokens)
        kv_lens = self._num_computed[slots] + num_tokens
        sampling = np.flatnonzero(kv_lens == self._num_tokens[slots])
        sampling_slots = slots[sampling]
        qo_indptr = _indptr(num_tokens)
        num_blocks, kv_indices, positions, slot_mapping = self._places(slots, qo_indptr, kv_lens)
        arrays: dict[str, NDArray[Any]] = {
            "generation": plan.generation_slots.astype(np.int64),
            "known": self._known_tokens(plan),
            "block_ids": kv_indices,
            "positions": positions,
            "slot_mapping": slot_mapping,
            "last_tokens": qo_indptr[1:][sampling].astype(np.int64) - 1,
            "sampling": sampling_slots.astype(np.int64),
            **self._sampling.arrays(sampling_slots, self._num_tokens),
            **self._penalties.arrays(sampling_slots),
            **self._logprobs.arrays(sampling_slots),
        }
        there = self._staging.upload(arrays)
        newest = self._newest[there["generation"]]
        return Batch(
            slots=slots,
            num_tokens=num_tokens,
            sampling_slots=sampling_slots,
            sampling_places=there["sampling"],
            input_ids=torch.cat((there["known"], newest)) if len(plan.context_slots) else newest,
            paged=PagedBatch(
                qo_indptr=qo_indptr,
                kv_indptr=_indptr(num_blocks),
                kv_indices=kv_indices,
                block_ids=there["block_ids"],
                kv_lens=kv_lens,
                positions=there["positions"],
                slot_mapping=there["slot_mapping"],
            ),
            last_tokens=there["last_tokens"],
            sampling=self._sampling.rows(there),
            penalties=self._penalties.rows(there),
            logprobs=self._logprobs.rows(sampling_slots, there),
        )

    def advance(self, batch: Batch, token_ids: Tensor) -> None:
        """The batch was computed and sampled `token_ids`, int64 [num_sampling], on the device."""
        self._num_computed[batch.slots] += batch.num_tokens
        self._num_tokens[batch.sampling_slots] += 1
        self._newest[batch.sampling_places] = token_ids
        self._penalties.advance(batch.penalties, token_ids)

    def _start(self, start: SequenceStart) -> None:
        slot, num_tokens = start.slot, len(start.token_ids)
        self._check_slots(np.array([slot], np.int32))
        self._check(
            0 <= start.num_computed < num_tokens <= self._max_model_len,
            f"slot {slot} starts with {start.num_computed} of {num_tokens} tokens computed; "
            f"must be fewer than all, and these at most {self._max_model_len}",
        )
        in_vocabulary = start.token_ids.min() >= 0 and start.token_ids.max() < self._vocab_size
        self._check(in_vocabulary, f"slot {slot}: token ids must be below {self._vocab_size}")
        penalties = start.penalties
        self._check(
            penalties is None or 0 < penalties.num_prompt <= num_tokens,
            f"slot {slot} starts with {num_tokens} tokens, of which the prompt must be at least one and at most all",
        )
        self._sampling.start(start)
        self._penalties.start(start)
        self._logprobs.start(start)
        self._known[slot] = start.token_ids.copy()
        self._num_known[slot] = self._num_tokens[slot] = num_tokens
        self._num_computed[slot] = start.num_computed
        self._num_table[slot] = 0
        self._append_blocks(np.full(len(start.block_table), slot, np.int32), start.block_table)

    def _append_blocks(self, slots: Int32Array, blocks: Int32Array) -> None:
        """A slot may come several times; its blocks keep their order."""
        if not len(slots):
            return
        self._check_slots(slots)
        in_pool = blocks.min() >= 0 and blocks.max() < self._num_blocks
        self._check(in_pool, f"block ids must be from 0 to {self._num_blocks - 1}, got {blocks}")
        order = np.argsort(slots, kind="stable")
        ordered = slots[order]
        rank = np.arange(len(slots)) - np.searchsorted(ordered, ordered)
        column = self._num_table[ordered] + rank
        width = self._block_table.shape[1]
        self._check(column.max() < width, f"slot {ordered[column.argmax()]} gets more than {width} blocks")
        self._block_table[ordered, column] = blocks[order]
        np.add.at(self._num_table, slots, 1)

    def _check_rows(self, plan: StepPlan, slots: Int32Array, num_tokens: Int32Array) -> None:
        self._check_slots(slots)
        distinct = not len(slots) or np.bincount(slots).max() == 1
        self._check(distinct, f"step {plan.step}: a slot is scheduled twice")
        context, generation = plan.context_slots, plan.generation_slots
        end = self._num_computed[slots] + num_tokens
        holds = end <= self._num_table[slots] * self._block_size
        self._check(holds.all(), f"step {plan.step}: slots {slots[~holds]} lack blocks for their tokens")
        if len(context):
            holds = (plan.context_tokens > 0) & (end[: len(context)] <= self._num_known[context])
            self._check(holds.all(), f"step {plan.step}: slots {context[~holds]} do not know the tokens to compute")
        num_tokens = self._num_tokens[generation]
        holds = (self._num_computed[generation] + 1 == num_tokens) & (num_tokens <= self._max_model_len)
        self._check(holds.all(), f"step {plan.step}: slots {generation[~holds]} cannot generate now")

    def _check_slots(self, slots: Int32Array) -> None:
        holds = (slots >= 0) & (slots < len(self._known))
        self._check(holds.all(), f"slots must be from 0 to {len(self._known) - 1}, got {slots[~holds]}")

    def _known_tokens(self, plan: StepPlan) -> NDArray[np.int64]:
        """Token ids of the context rows."""
        first = self._num_computed[plan.context_slots]
        spans = zip(plan.context_slots.tolist(), first.tolist(), (first + plan.context_tokens).tolist(), strict=True)
        context = [self._known[slot][start:stop] for slot, start, stop in spans]
        return np.concatenate(context).astype(np.int64) if context else _NOTHING

    def _places(
        self, slots: Int32Array, qo_indptr: Int32Array, kv_lens: Int32Array
    ) -> tuple[Int32Array, Int32Array, NDArray[np.int64], NDArray[np.int64]]:
        """Number of blocks of each row and all of these, then position and place in the cache of each new token."""
        num_blocks = -(-kv_lens // self._block_size)
        table = self._block_table[slots, : num_blocks.max(initial=0)]
        positions = kv_lens.astype(np.int64) - 1
        row = np.arange(len(slots))
        if qo_indptr[-1] != len(slots):
            num_tokens = np.diff(qo_indptr)
            row = np.repeat(row, num_tokens)
            positions = np.arange(qo_indptr[-1]) + np.repeat(kv_lens - qo_indptr[1:], num_tokens)
        column, offset = np.divmod(positions, self._block_size)
        slot_mapping = table[row, column] * np.int64(self._block_size) + offset
        return num_blocks, table[np.arange(table.shape[1]) < num_blocks[:, None]], positions, slot_mapping

    @staticmethod
    def _check(holds: bool | np.bool_, complaint: str) -> None:
        if not holds:
            raise ValueError(complaint)


def _indptr(lengths: Int32Array) -> Int32Array:
    return np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))
