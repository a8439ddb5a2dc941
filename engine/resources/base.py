"""The life cycle that every resource of a sequence goes through."""

from abc import ABC, abstractmethod

from quire.engine.request import Request
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.sequence import Sequence


class ResourceManager(ABC):
    """Gives sequences what they need to run, step by step.

    `validate` runs once when a request comes, and `can_start` whenever its sequence might start. `start` runs when
    the sequence is admitted. For each step `prepare_resources` runs before its plan leaves and `update_resources`
    after its result came, in the order of the steps. `free_resources` runs once no step in flight can touch what the
    sequence held; a paused sequence starts again later.
    """

    def validate(self, request: Request) -> None:
        """Raises `RequestError` for a request that must be refused; one that was accepted before is not asked for."""

    def can_start(self, sequence: Sequence) -> bool:
        """Whether the sequence need not wait for this resource. It is asked in every step until the answer is yes."""
        return True

    @abstractmethod
    def start(self, sequence: Sequence) -> None:
        """Takes what the sequence holds from its start to its end."""

    def prepare_resources(self, step: ScheduledStep) -> None:
        """Takes what the step's sequences need."""

    def update_resources(self, step: ScheduledStep) -> None:
        """Takes note of what the step has computed."""

    @abstractmethod
    def free_resources(self, sequence: Sequence) -> None:
        """Takes back everything from the sequence; harmless if it holds nothing."""
