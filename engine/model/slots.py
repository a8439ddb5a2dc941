"""The `Slots`: what an executor remembers of its sequences between steps. Knows neither weights nor cache.

Counters and block tables are arrays over all slots, on the host. A step of generation rows costs a fixed number of
array operations. The newest token of each slot lives on the device and is never waited for.
"""

from itertools import compress
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.adapters.places import AdapterPlaces
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.kv_cache_group import WHOLE, KVCacheGroup
from quire.engine.arrays import Int32Array
from quire.engine.block_table import GONE
from quire.engine.model.batch import Batch
from quire.engine.model.features.adapters import SlotAdapters
from quire.engine.model.features.context_rows import ContextRows
from quire.engine.model.features.logprobs import SlotLogprobs
from quire.engine.model.features.pooling import PooledTokens, PooledVectors
from quire.engine.model.features.prompts import SlotPrompts
from quire.engine.model.features.sampling import SlotSampling
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor, SlotFeature
from quire.engine.model.staging import Staging
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.attention import PagedBatch

_NOTHING: Final = np.empty(0, np.int64)


class _Use(NamedTuple):
    """What a step needs of a feature."""

    feature: SlotFeature[Any]
    step: FeatureStep
    arrays: Arrays


class Slots:
    """State of `num_slots` sequences.

    Of one slot, with `known` the tokens it started with and `S` the sampled ones:

        known known known known known S S S
        └─ num_computed ─▶│           │   │
        └─ num_known ────────────────▶│   │
        └─ num_tokens ───────────────────▶│

    The tokens before num_computed have their keys and values in the blocks of the slot's table.

    Args:
        processors: change logits in this order.
        groups: each has a block table in every slot.
        adapters: where those of sequences lie; None: none has one.
    """

    def __init__(
        self, *, num_slots: int, max_model_len: int, block_size: int, num_blocks: int, vocab_size: int,
        device: torch.device, processors: tuple[LogitsProcessor[Any], ...] = (),
        groups: tuple[KVCacheGroup, ...] = WHOLE, adapters: AdapterPlaces | None = None,
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
        # Of each group: a window's blocks that nobody sees any more are some number or other.
        self._tables = [np.zeros((num_slots, -(-max_model_len // block_size)), np.int32) for _ in groups]
        self._names = [
            (f"block_ids of group {group}", f"slot_mapping of group {group}") for group in range(len(groups))
        ]
        self._has_window = np.array([group.window is not None for group in groups])
        self._num_table = np.zeros(num_slots, np.int32)
        self._adapters = SlotAdapters(num_slots, adapters)
        self._sampling = SlotSampling(num_slots, device)
        self._logprobs = SlotLogprobs(num_slots, vocab_size)
        self._prompts = SlotPrompts(num_slots, vocab_size)
        self._processors = processors
        self._features: tuple[SlotFeature[Any], ...] = (self._sampling, self._logprobs, *processors)
        # Which slots want which feature, [num_features, num_slots], and which features any slot wants.
        self._wants = np.zeros((len(self._features), num_slots), np.bool_)
        self._wanted: tuple[int, ...] = ()
        self._newest = torch.zeros(num_slots, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Empty every slot."""
        self._known = [np.empty(0, np.int32)] * len(self._known)
        for counter in (self._num_known, self._num_computed, self._num_tokens, self._num_table):
            counter[:] = 0
        self._adapters.reset()
        self._prompts.reset()
        self._wants[:] = False
        self._wanted = ()
        for feature in self._features:
            feature.reset()

    def apply(self, plan: StepPlan) -> Batch:
        """Take in what the plan changes and build its step; `advance` completes it.

        Raises:
            InvalidRequest: the plan contradicts the slots; the slots are then in no usable state but `reset`.
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
        num_blocks, positions, places = self._places(slots, qo_indptr, kv_lens)
        kv_indptr = _indptr(num_blocks)
        last_tokens = qo_indptr[1:][sampling].astype(np.int64) - 1
        arrays: Arrays = {
            "generation": plan.generation_slots.astype(np.int64),
            "known": self._known_tokens(plan),
            "positions": positions,
            "last_tokens": last_tokens,
            "sampling": sampling_slots.astype(np.int64),
        }
        for (block_ids, slot_mapping), (blocks, mapping) in zip(self._names, places, strict=True):
            arrays[block_ids], arrays[slot_mapping] = blocks, mapping
        if (adapters := self._adapters.of(slots, num_tokens)) is not None:
            arrays["adapters"] = adapters
        uses = self._uses(sampling_slots)
        context = ContextRows(plan.context_slots, self._num_computed[plan.context_slots], plan.context_tokens)
        prompts = self._prompts.places(context, self._known, last_tokens)
        there, *parts = self._staging.upload([arrays, *(use.arrays for use in uses), *prompts.arrays])
        parts, of_prompts = parts[: len(uses)], parts[len(uses) :]
        rows = {use.feature: use.feature.rows(use.step, part) for use, part in zip(uses, parts, strict=True)}
        newest = self._newest[there["generation"]]
        return Batch(
            slots=slots,
            num_tokens=num_tokens,
            sampling_slots=sampling_slots,
            sampling_places=there["sampling"],
            input_ids=torch.cat((there["known"], newest)) if len(plan.context_slots) else newest,
            paged=tuple(
                PagedBatch(
                    qo_indptr, kv_indptr, blocks, there[block_ids], kv_lens, there["positions"], there[slot_mapping]
                )
                for (block_ids, slot_mapping), (blocks, _) in zip(self._names, places, strict=True)
            ),
            last_tokens=there["last_tokens"],
            adapters=there.get("adapters"),
            sampling=rows.get(self._sampling, self._sampling.all_greedy),
            logprobs=rows.get(self._logprobs),
            **prompts.on_device(of_prompts),
            processors=tuple((each, rows[each]) for each in self._processors if each in rows) if rows else (),
        )

    def pool(self, hidden: Tensor, pooled: PooledTokens) -> PooledVectors:
        """Adds hidden states of a batch, [num_states, hidden_size], and gives vectors of prompts that end with it."""
        return self._prompts.pooling.pool(hidden, pooled)

    def advance(self, batch: Batch, token_ids: Tensor) -> None:
        """The batch was computed and sampled `token_ids`, int64 [num_sampling], on the device."""
        self._num_computed[batch.slots] += batch.num_tokens
        self._num_tokens[batch.sampling_slots] += 1
        self._newest[batch.sampling_places] = token_ids
        for processor, rows in batch.processors:
            processor.advance(rows, token_ids)

    def _start(self, start: SequenceStart) -> None:
        slot, num_tokens = start.slot, len(start.token_ids)
        self._check_slots("starts.slot", np.array([slot], np.int64))
        if not 0 <= start.num_computed < num_tokens <= self._max_model_len:
            limit = f"must be below the {num_tokens} tokens of slot {slot}, and these at most {self._max_model_len}"
            raise InvalidRequest("starts.num_computed", start.num_computed, limit)
        if start.token_ids.min() < 0 or start.token_ids.max() >= self._vocab_size:
            raise InvalidRequest("starts.token_ids", start.token_ids, f"must be 0 to {self._vocab_size - 1}")
        if not 0 < start.num_prompt <= num_tokens:
            limit = f"must be 1 to the {num_tokens} tokens of slot {slot}"
            raise InvalidRequest("starts.num_prompt", start.num_prompt, limit)
        self._adapters.start(start)
        self._want(start)
        self._prompts.start(start)
        self._known[slot] = start.token_ids.copy()
        self._num_known[slot] = self._num_tokens[slot] = num_tokens
        self._num_computed[slot] = start.num_computed
        self._num_table[slot] = 0
        tables = start.block_table.reshape(len(self._tables), -1)
        # What is gone is not read: any block will do.
        blocks = np.where((tables == GONE) & self._has_window[:, None], 0, tables).T
        self._append_blocks(np.full(len(blocks), slot, np.int32), blocks)

    def _want(self, start: SequenceStart) -> None:
        wants = [feature.wants(start.sampling) for feature in self._features]
        self._wants[:, start.slot] = wants
        self._wanted = tuple(np.flatnonzero(self._wants.any(axis=1)).tolist())
        for feature in compress(self._features, wants):
            feature.start(start)

    def _uses(self, slots: Int32Array) -> list["_Use"]:
        """What the step needs of each feature that some of these slots want; they sample."""
        uses = []
        for index in self._wanted:
            rows = np.flatnonzero(self._wants[index, slots])
            if len(rows):
                feature, its_slots = self._features[index], slots[rows]
                step = FeatureStep(rows, its_slots, self._num_tokens[its_slots])
                if (arrays := feature.arrays(step)) is not None:
                    uses.append(_Use(feature, step, arrays))
        return uses

    def _append_blocks(self, slots: Int32Array, blocks: Int32Array) -> None:
        """For each of the slots a block of each group; a slot may come several times, its blocks keep their order."""
        if not len(slots):
            return
        self._check_slots("append_slots", slots)
        if blocks.min() < 0 or blocks.max() >= self._num_blocks:
            raise InvalidRequest("append_blocks", blocks, f"must be 0 to {self._num_blocks - 1}")
        order = np.argsort(slots, kind="stable")
        ordered = slots[order]
        rank = np.arange(len(slots)) - np.searchsorted(ordered, ordered)
        column = self._num_table[ordered] + rank
        width = self._tables[0].shape[1]
        if column.max() >= width:
            raise InvalidRequest("append_slots", int(ordered[column.argmax()]), f"must be given at most {width} blocks")
        for table, appended in zip(self._tables, blocks.reshape(len(slots), -1).T, strict=True):
            table[ordered, column] = appended[order]
        np.add.at(self._num_table, slots, 1)

    def _check_rows(self, plan: StepPlan, slots: Int32Array, num_tokens: Int32Array) -> None:
        self._check_slots("context_slots, generation_slots", slots)
        if len(slots) and np.bincount(slots).max() > 1:
            twice = np.flatnonzero(np.bincount(slots) > 1)
            raise InvalidRequest("generation_slots", twice, f"must not be in step {plan.step} twice")
        context, generation = plan.context_slots, plan.generation_slots
        end = self._num_computed[slots] + num_tokens
        holds = end <= self._num_table[slots] * self._block_size
        self._check_all("context_slots, generation_slots", slots, holds, "must have blocks for the tokens to compute")
        if len(context):
            holds = (plan.context_tokens > 0) & (end[: len(context)] <= self._num_known[context])
            self._check_all("context_slots", context, holds, "must know the tokens to compute, at least one")
        num_tokens = self._num_tokens[generation]
        holds = (self._num_computed[generation] + 1 == num_tokens) & (num_tokens <= self._max_model_len)
        limit = f"must have computed all tokens but the newest, and have at most {self._max_model_len}"
        self._check_all("generation_slots", generation, holds, limit)

    def _check_slots(self, field: str, slots: NDArray[Any]) -> None:
        holds = (slots >= 0) & (slots < len(self._known))
        self._check_all(field, slots, holds, f"must be 0 to {len(self._known) - 1}")

    @staticmethod
    def _check_all(field: str, slots: NDArray[Any], holds: NDArray[np.bool_], limit: str) -> None:
        if not holds.all():
            raise InvalidRequest(field, slots[~holds].tolist(), limit)

    def _known_tokens(self, plan: StepPlan) -> NDArray[np.int64]:
        """Token ids of the context rows."""
        first = self._num_computed[plan.context_slots]
        spans = zip(plan.context_slots.tolist(), first.tolist(), (first + plan.context_tokens).tolist(), strict=True)
        context = [self._known[slot][start:stop] for slot, start, stop in spans]
        return np.concatenate(context).astype(np.int64) if context else _NOTHING

    def _places(
        self, slots: Int32Array, qo_indptr: Int32Array, kv_lens: Int32Array
    ) -> tuple[Int32Array, NDArray[np.int64], list[tuple[Int32Array, NDArray[np.int64]]]]:
        """Number of blocks of each row and position of each new token; of each group all blocks, and the tokens' places
        in the cache.
        """
        num_blocks = -(-kv_lens // self._block_size)
        longest = num_blocks.max(initial=0)
        is_held = np.arange(longest) < num_blocks[:, None]
        positions = kv_lens.astype(np.int64) - 1
        row = np.arange(len(slots))
        if qo_indptr[-1] != len(slots):
            num_tokens = np.diff(qo_indptr)
            row = np.repeat(row, num_tokens)
            positions = np.arange(qo_indptr[-1]) + np.repeat(kv_lens - qo_indptr[1:], num_tokens)
        column, offset = np.divmod(positions, self._block_size)
        places = []
        for each in self._tables:
            table = each[slots, :longest]
            places.append((table[is_held], table[row, column] * np.int64(self._block_size) + offset))
        return num_blocks, positions, places


def _indptr(lengths: Int32Array) -> Int32Array:
    return np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))
