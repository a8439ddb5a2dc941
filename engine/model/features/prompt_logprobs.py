"""Log-probabilities of the tokens of prompts: which are wanted in a step, and what came."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs
from quire.engine.model.features.slot_feature import Arrays
from quire.engine.step import SequenceStart
from quire.kernels.suite import KernelSuite

# Tokens whose logits are made at once.
_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTokens:
    """Tokens of prompts that a step computes and whose followers are to be scored.

    Attributes:
        states: int64 [num_states], ascending, on the device: the new tokens whose hidden states the step needs, for
            sampling or for scores.
        sampling: int64 [num_sampling], on the device: which of the states the sampling rows use.
        rows: int64 [n], on the device: which of the states predict the tokens to be scored.
        targets: int64 [n], on the device: the tokens to be scored.
        slots, positions, num_top: int32 [n], on the host: whose, where in the prompt, and how many of the most likely
            tokens are wanted.
    """

    states: Tensor
    sampling: Tensor
    rows: Tensor
    targets: Tensor
    slots: Int32Array
    positions: Int32Array
    num_top: Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPlaces:
    """The same on the host, before its arrays are uploaded.

    Attributes:
        arrays: `states`, `sampling`, `rows` and `targets`.
    """

    arrays: Arrays
    slots: Int32Array
    positions: Int32Array
    num_top: Int32Array


class SlotPromptLogprobs:
    """Which slots want their prompts scored. No `SlotFeature`: it concerns rows that compute context."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._wanting: set[int] = set()
        self._num_top = np.zeros(num_slots, np.int32)
        self._num_prompt = np.zeros(num_slots, np.int32)

    def reset(self) -> None:
        """Forget every slot."""
        self._wanting.clear()

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot."""
        self._wanting.discard(start.slot)
        wanted = start.sampling.prompt_logprobs
        if wanted is not None:
            self._wanting.add(start.slot)
            self._num_top[start.slot] = min(wanted, self._vocab_size)
            self._num_prompt[start.slot] = start.num_prompt

    def places(
        self,
        slots: Int32Array,
        first: Int32Array,
        num_tokens: Int32Array,
        known: list[Int32Array],
        last_tokens: NDArray[np.int64],
    ) -> ScoredPlaces | None:
        """What a step must score; None: nothing.

        Args:
            slots, first, num_tokens: int32 [num_context]: the step's rows of context, which come first in it: tokens
                [first, first + num_tokens) of each slot.
            known: of every slot.
            last_tokens: int64 [num_sampling], ascending: the new tokens that the sampling rows use.
        """
        if not self._wanting:
            return None
        tokens, targets, positions, owners = [], [], [], []
        begin = 0
        for slot, start, count in zip(slots.tolist(), first.tolist(), num_tokens.tolist(), strict=True):
            # The last token of the prompt predicts the first that is sampled.
            scored = min(count, int(self._num_prompt[slot]) - 1 - start) if slot in self._wanting else 0
            if scored > 0:
                tokens.append(begin + np.arange(scored))
                positions.append(start + 1 + np.arange(scored, dtype=np.int32))
                targets.append(known[slot][start + 1 : start + 1 + scored].astype(np.int64))
                owners.append(np.full(scored, slot, np.int32))
            begin += count
        if not tokens:
            return None
        wanted = np.concatenate(tokens)
        states = np.union1d(last_tokens, wanted)
        arrays: Arrays = {
            "states": states,
            "sampling": np.searchsorted(states, last_tokens),
            "rows": np.searchsorted(states, wanted),
            "targets": np.concatenate(targets),
        }
        slot_of = np.concatenate(owners)
        return ScoredPlaces(arrays, slot_of, np.concatenate(positions), self._num_top[slot_of])


@dataclass(frozen=True, slots=True, eq=False)
class PromptScores:
    """Log-probabilities of scored tokens, with as many most likely tokens for each as the largest request among them.

    Attributes:
        scored: the tokens.
        values: float32 [n, 1 + max(num_top)]: of the token, then of the most likely.
        top_ids: int32 [n, max(num_top)].
        ranks: int32 [n].
    """

    scored: ScoredTokens
    values: Tensor
    top_ids: Tensor
    ranks: Tensor

    def packed(self) -> PackedPromptLogprobs:
        """For each token what it wants; on the host."""
        scored = self.scored
        is_wanted = np.arange(self.values.shape[1]) <= scored.num_top[:, None]
        values, top_ids = self.values.numpy()[is_wanted], self.top_ids.numpy()[is_wanted[:, 1:]]
        entries = PackedLogprobs(scored.slots, scored.num_top, values, top_ids)
        return PackedPromptLogprobs(entries, scored.positions, self.ranks.numpy())


def score(
    hidden: Tensor, scored: ScoredTokens, to_logits: Callable[[Tensor], Tensor], kernels: KernelSuite
) -> PromptScores:
    """Scores tokens by the hidden states [num_states, hidden_size] of their step; on its device."""
    num_top = int(scored.num_top.max())
    values, top_ids, ranks = zip(*_parts(hidden, scored, to_logits, kernels, num_top), strict=True)
    return PromptScores(scored, torch.cat(values), torch.cat(top_ids), torch.cat(ranks))


def _parts(
    hidden: Tensor, scored: ScoredTokens, to_logits: Callable[[Tensor], Tensor], kernels: KernelSuite, num_top: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of a whole prompt may not fit into memory."""
    for rows, targets in zip(*(torch.split(each, _AT_ONCE) for each in (scored.rows, scored.targets)), strict=True):
        logits = to_logits(hidden[rows])
        values, top_ids = kernels.logprobs(logits, targets, torch.arange(len(rows), device=rows.device), num_top)
        ranks = (logits > logits.gather(1, targets.unsqueeze(1))).sum(dim=1) + 1
        yield values, top_ids, ranks.int()
