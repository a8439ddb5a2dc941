"""The `SlotAdapters`: which slots have which adapter."""

import numpy as np

from quire.engine.adapters.places import AdapterPlaces
from quire.engine.arrays import Int32Array
from quire.engine.step import SequenceStart
from quire.kernels.adapters import NO_PLACE


class SlotAdapters:
    """Args:
    places: where adapters lie; None: no sequence has one.
    """

    def __init__(self, num_slots: int, places: AdapterPlaces | None) -> None:
        self._places = places
        self._of_slot = np.full(num_slots, NO_PLACE, np.int32)

    def reset(self) -> None:
        """Forget every slot."""
        self._of_slot[:] = NO_PLACE

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot.

        Raises:
            InvalidRequest: its adapter was not loaded.
        """
        self._of_slot[start.slot] = NO_PLACE if self._places is None else self._places.place(start.adapter)

    def of(self, slots: Int32Array, num_tokens: Int32Array) -> Int32Array | None:
        """Of all tokens of a step, int32 [sum of num_tokens]: the place of each one's adapter; None: none has one."""
        places = self._of_slot[slots]
        return np.repeat(places, num_tokens) if (places != NO_PLACE).any() else None
