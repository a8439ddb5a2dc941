"""What compiles structured outputs is loaded on every executor before a request has to go on there."""

from collections.abc import Collection

from quire.engine.api.structured_output import StructuredOutput
from quire.services.scheduler.attached_executor import AttachedExecutor


class WarmStructures:
    """Has executors that have compiled nothing yet compile what was asked for last."""

    def __init__(self) -> None:
        self._latest: StructuredOutput | None = None
        self._is_tried = False  # an executor has compiled it

    def ask(self, structure: StructuredOutput, executors: Collection[AttachedExecutor]) -> None:
        """A request with this one has come."""
        if structure != self._latest:
            self._latest, self._is_tried = structure, False
        self.spread(executors)

    def spread(self, executors: Collection[AttachedExecutor]) -> None:
        """Executors have come, or one is about to go: what it has compiled was tried."""
        structure = self._latest
        if structure is None:
            return
        self._is_tried |= any(executor.scheduler.has_structure(structure) for executor in executors)
        for executor in executors:
            if not executor.scheduler.has_structures:
                executor.scheduler.begin_structures(structure, is_tried=self._is_tried)
                executor.loop.wake()
