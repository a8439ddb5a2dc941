"""All resources of one executor as one."""

from collections.abc import Sequence as List

from quire.engine.request import Request
from quire.engine.resources.base import ResourceManager
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.sequence import Sequence


class ResourceContainer(ResourceManager):
    """Passes every call on to each manager: in the order given when taking, in the opposite one when freeing."""

    def __init__(self, managers: List[ResourceManager]) -> None:
        self._managers = tuple(managers)

    def validate(self, request: Request) -> None:
        for manager in self._managers:
            manager.validate(request)

    def can_start(self, sequence: Sequence) -> bool:
        return all(manager.can_start(sequence) for manager in self._managers)

    def start(self, sequence: Sequence) -> None:
        for manager in self._managers:
            manager.start(sequence)

    def prepare_resources(self, step: ScheduledStep) -> None:
        for manager in self._managers:
            manager.prepare_resources(step)

    def update_resources(self, step: ScheduledStep) -> None:
        for manager in self._managers:
            manager.update_resources(step)

    def free_resources(self, sequence: Sequence) -> None:
        for manager in reversed(self._managers):
            manager.free_resources(sequence)
