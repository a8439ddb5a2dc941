"""How many KV blocks more than now will be held, until all have ended that generate now."""

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quire.engine.sequence import Sequence

# Steps that are planned behind a sequence's last one before its blocks are available: those in flight.
STEPS_TO_FREE = 2
_NEVER = 2**40


class Forecast:
    """Blocks that sequences take and give back: each goes on by a token a step, up to its end.

        blocks     ╱│  ╱│ ╱╲          they grow between two ends, so that the most is
                  ╱ │╱  │╱  ╲         held right before one: only there it is computed
        steps  ──────────────────▶

    It errs to the safe side, by less than a block for each sequence.

    Args:
        sequences: those that generate.
        lengths: their tokens; int64 [sequences].
        ends: with how many each ends at the latest; int64 [sequences].
        returned: blocks that become available with its end, of those that it has now; int64 [sequences].
        block_size: tokens of a block.
        num_tables: blocks that a sequence takes at once.
    """

    def __init__(
        self,
        sequences: Collection[Sequence],
        lengths: NDArray[np.int64],
        ends: NDArray[np.int64],
        returned: NDArray[np.int64],
        block_size: int,
        num_tables: int,
    ) -> None:
        order = np.argsort(ends - lengths)
        self._sequences, self._order = tuple(sequences), order
        lengths, ends = lengths[order], ends[order]
        self._block_size, self._num_tables = block_size, num_tables
        self._steps = np.append(ends - lengths + STEPS_TO_FREE, _NEVER)
        self._num_ended = np.searchsorted(self._steps[:-1], self._steps)
        num_left = len(lengths) - self._num_ended
        # Of those left: tokens to the ends of their last blocks, and blocks to their ends.
        room = self._of_those_left(-lengths % block_size)
        growth = self._of_those_left(-(-ends // block_size) - -(-lengths // block_size))
        # The sum of (steps - room) / block_size, each rounded up.
        taken = np.minimum((num_left * (self._steps + block_size - 1) - room) // block_size, growth)
        given = np.append(0, np.cumsum(returned[order]))[self._num_ended]
        self._taken: NDArray[np.int64] = taken * num_tables - given

    def demand(self, growth: int, kept: Mapping[str, int]) -> NDArray[np.int64]:
        """Blocks that one more sequence takes by each of the steps looked at; its end is not known. int64 [steps].

        Args:
            growth: blocks that it takes behind those that are set aside for it.
            kept: holder → blocks that it shares with this one alone: they stay when that one ends.
        """
        taken: NDArray[np.int64] = np.minimum(growth, -(-self._steps // self._block_size) * self._num_tables)
        for holder, count in kept.items():
            if (place := self._places.get(holder)) is not None:
                taken = taken + count * (self._num_ended > place)
        return taken

    def add(self, demand: NDArray[np.int64]) -> None:
        """A sequence of this demand starts."""
        self._taken = self._taken + demand

    def peak(self, demand: NDArray[np.int64]) -> int:
        """The most blocks that all take beyond those that they have, if a sequence of this demand starts."""
        return int((self._taken + demand).max())

    @cached_property
    def _places(self) -> dict[str, int]:
        """Holder → how many end before it."""
        return dict(zip((each.holder for each in self._sequences), self._order.argsort().tolist(), strict=True))

    def _of_those_left(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        total: NDArray[np.int64] = values.sum() - np.append(0, np.cumsum(values))[self._num_ended]
        return total
