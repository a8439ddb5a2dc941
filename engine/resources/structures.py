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
        # With whether some executor has compiled it before.
        self._to_ask: dict[StructuredOutput, bool] = {}

    def can_start(self, sequence: Sequence) -> bool:
        structure = sequence.request.params.structured_output
        if structure is None:
            return True
        if structure in self._ready:
            self._ready.move_to_end(structure)
            return True
        self._ask(structure, is_tried=sequence.was_started or len(sequence.request.generated) > 0)
        return False

    @property
    def is_loaded(self) -> bool:
        """Whether the executor has compiled one, so that others take it little time."""
        return bool(self._ready)

    def has(self, structure: StructuredOutput) -> bool:
        """Whether the executor has compiled it."""
        return structure in self._ready

    def begin(self, structure: StructuredOutput, *, is_tried: bool) -> None:
        """Has the executor compile it, if it has not been asked for any: to load what compiles takes seconds."""
        if not self._ready and not self._asked:
            self._ask(structure, is_tried)

    def start(self, sequence: Sequence) -> None:
        """It holds nothing."""

    def free_resources(self, sequence: Sequence) -> None:
        """It holds nothing."""

    def take(self) -> dict[StructuredOutput, bool]:
        """What the executor has not been asked for yet, each with whether an executor has compiled it before."""
        taken, self._to_ask = self._to_ask, {}
        return taken

    def answer(self, structure: StructuredOutput, *, is_ready: bool) -> None:
        """The executor has compiled it, or cannot."""
        self._asked.discard(structure)
        if is_ready:
            self._ready[structure] = None
            if len(self._ready) > _MAX_READY:
                self._ready.popitem(last=False)

    def _ask(self, structure: StructuredOutput, is_tried: bool) -> None:
        if structure not in self._asked:
            self._asked.add(structure)
            self._to_ask[structure] = is_tried
