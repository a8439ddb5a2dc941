"""The interface of tenant policies."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from collections.abc import Sequence as List

from quire.engine.sequence import Sequence


class TenantPolicy(ABC):
    """Decides whose turn it is. Sequences wait in lines; within a line they go by priority, ageing and arrival.

    The line of the lowest level is next. A sequence that starts raises the level of its line for those behind it. A
    plug-in is a subclass with the same constructor, which has no arguments.
    """

    def line(self, sequence: Sequence) -> str:
        """The name of the line that it waits in: its tenant's. Lines share the bounds of the queue by weight."""
        return sequence.request.options.tenant

    def enter(self, line: str, others: Collection[str]) -> None:
        """A line has its first waiting sequence.

        Args:
            others: lines in which sequences wait.
        """

    @abstractmethod
    def level(self, line: str) -> float:
        """The level of a line that has been entered."""

    @abstractmethod
    def price(self, sequence: Sequence) -> float:
        """By how much the start of a waiting sequence raises the level of its line, as far as known before."""

    def start(self, sequence: Sequence) -> None:
        """A sequence starts, for the first time unless `was_started`; its cached prefix is known."""

    def generate(self, sequences: List[Sequence]) -> None:
        """A step has brought a token for each of these sequences."""
