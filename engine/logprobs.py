"""Log-probabilities of a step's tokens, and of tokens of prompts, packed as they travel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class PackedLogprobs:
    """Log-probabilities of one step's tokens.

    Attributes:
        owners: int32 [n]: whose token it is, such as a slot.
        num_top: int32 [n]: how many of the most likely tokens each has.
        logprobs: float32 [n + sum(num_top)]: for each, its own and then those of the most likely.
        top_token_ids: int32 [sum(num_top)].
    """

    owners: Int32Array
    num_top: Int32Array
    logprobs: NDArray[np.float32]
    top_token_ids: Int32Array

    def unpack(self) -> list[tuple[int, TokenLogprobs]]:
        """One entry per token, with its owner."""
        found = []
        logprobs, token_ids = self.logprobs.tolist(), self.top_token_ids.tolist()
        at = 0
        for index, (owner, count) in enumerate(zip(self.owners.tolist(), self.num_top.tolist(), strict=True)):
            own = at + index
            top = tuple(token_ids[at : at + count]), tuple(logprobs[own + 1 : own + 1 + count])
            found.append((owner, TokenLogprobs(logprobs[own], *top)))
            at += count
        return found


def pack(entries: Iterable[tuple[int, TokenLogprobs]]) -> PackedLogprobs:
    """Inverse of `PackedLogprobs.unpack`."""
    owners, found = zip(*entries, strict=True)
    return PackedLogprobs(
        owners=np.array(owners, np.int32),
        num_top=np.array([len(each.top_token_ids) for each in found], np.int32),
        logprobs=np.fromiter(chain.from_iterable((each.logprob, *each.top_logprobs) for each in found), np.float32),
        top_token_ids=np.fromiter(chain.from_iterable(each.top_token_ids for each in found), np.int32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PackedPromptLogprobs:
    """Log-probabilities of tokens of prompts.

    Attributes:
        entries: as of a step's tokens.
        positions: int32 [n]: place of each token in its prompt, from 1: nothing comes before the first.
        ranks: int32 [n]: place of each token among all, 1 for the most likely.
    """

    entries: PackedLogprobs
    positions: Int32Array
    ranks: Int32Array

    def unpack(self) -> list[tuple[int, int, TokenLogprobs]]:
        """One entry per token, with its owner and position."""
        entries = zip(self.entries.unpack(), self.positions.tolist(), self.ranks.tolist(), strict=True)
        return [(owner, position, replace(found, rank=rank)) for (owner, found), position, rank in entries]


def pack_prompt(entries: Sequence[tuple[int, int, TokenLogprobs]]) -> PackedPromptLogprobs:
    """Inverse of `PackedPromptLogprobs.unpack`."""
    return PackedPromptLogprobs(
        entries=pack((owner, found) for owner, _, found in entries),
        positions=np.array([position for _, position, _ in entries], np.int32),
        ranks=np.array([found.rank for _, _, found in entries], np.int32),
    )
