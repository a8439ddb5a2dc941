"""The `StructureManager`: which structured outputs the executor has compiled."""

from collections import OrderedDict
from typing import Final

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.resources.base import ResourceManager
from quire.engine.sequence import Sequence

# What the executor has dropped it compiles again, when a sequence starts: all others wait for that step.
_MAX_READY: Final = 1024


class StructureManager(ResourceManager):
    """A sequence with a structured output waits until the executor has compiled that. Others pass it meanwhile."""

    def __init__(self) -> None:
        # Of the ready ones, the latest used is the last.
        self._ready: OrderedDict[StructuredOutput, None] = OrderedDict()
        self._asked: set[StructuredOutput] = set()
        self._to_ask: list[StructuredOutput] = []

    def can_start(self, sequence: Sequence) -> bool:
        structure = sequence.request.params.structured_output
        if structure is None:
            return True
        if structure in self._ready:
            self._ready.move_to_end(structure)
            return True
        if structure not in self._asked:
            self._asked.add(structure)
            self._to_ask.append(structure)
        return False

    def start(self, sequence: Sequence) -> None:
        """It holds nothing."""

    def free_resources(self, sequence: Sequence) -> None:
        """It holds nothing."""

    def take(self) -> list[StructuredOutput]:
        """What the executor has not been asked for yet."""
        taken, self._to_ask = self._to_ask, []
        return taken

    def answer(self, structure: StructuredOutput, *, is_ready: bool) -> None:
        """The executor has compiled it, or cannot."""
        self._asked.discard(structure)
        if is_ready:
            self._ready[structure] = None
            if len(self._ready) > _MAX_READY:
                self._ready.popitem(last=False)
