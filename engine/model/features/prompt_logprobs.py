"""Log-probabilities of the tokens of prompts: which are wanted in a step, and what came."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs
from quire.engine.model.features.context_rows import ContextRows
from quire.engine.step import SequenceStart
from quire.kernels.suite import KernelSuite

# Tokens whose logits are made at once.
_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPlaces:
    """Tokens of prompts that are to be scored in a step, by the states of those before them; on the host.

    Attributes:
        tokens: int64 [n], ascending: the step's new tokens that come before.
        targets: int64 [n]: the tokens to be scored.
        slots, positions, num_top: int32 [n]: whose, where in the prompt, and how many of the most likely tokens are
            wanted.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    slots: Int32Array
    positions: Int32Array
    num_top: Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTokens:
    """The same with what the device needs there.

    Attributes:
        places: on the host.
        rows: int64 [n]: which of the step's states predict the tokens.
        targets: int64 [n].
    """

    places: ScoredPlaces
    rows: Tensor
    targets: Tensor


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

    def places(self, context: ContextRows, known: Sequence[Int32Array]) -> ScoredPlaces | None:
        """What a step must score; None: nothing.

        Args:
            known: tokens of every slot.
        """
        if not self._wanting:
            return None
        tokens, targets, positions, owners = [], [], [], []
        for slot, first, count, begin in context.spans():
            # The last token of the prompt predicts the first that is sampled.
            scored = min(count, int(self._num_prompt[slot]) - 1 - first) if slot in self._wanting else 0
            if scored > 0:
                tokens.append(begin + np.arange(scored))
                positions.append(first + 1 + np.arange(scored, dtype=np.int32))
                targets.append(known[slot][first + 1 : first + 1 + scored].astype(np.int64))
                owners.append(np.full(scored, slot, np.int32))
        if not tokens:
            return None
        slots = np.concatenate(owners)
        return ScoredPlaces(
            np.concatenate(tokens), np.concatenate(targets), slots, np.concatenate(positions), self._num_top[slots]
        )


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
        places = self.scored.places
        is_wanted = np.arange(self.values.shape[1]) <= places.num_top[:, None]
        values, top_ids = self.values.numpy()[is_wanted], self.top_ids.numpy()[is_wanted[:, 1:]]
        entries = PackedLogprobs(places.slots, places.num_top, values, top_ids)
        return PackedPromptLogprobs(entries, places.positions, self.ranks.numpy())


def score(
    hidden: Tensor, scored: ScoredTokens, to_logits: Callable[[Tensor], Tensor], kernels: KernelSuite
) -> PromptScores:
    """Scores tokens by the hidden states [num_states, hidden_size] of their step; on its device."""
    num_top = int(scored.places.num_top.max())
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
