"""What a fault is, and a kind of them."""

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.cluster import Cluster


class Fault(ABC):
    """Something that goes wrong, and is put right again.

    Attributes:
        count: faults that it is.
    """

    count = 1

    @abstractmethod
    async def apply(self) -> None:
        """It happens."""

    @abstractmethod
    async def undo(self) -> None:
        """Its cause is gone; services may still take their time."""


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        name: what happens.
        make: chooses whom it happens to.
        lasts: seconds from its beginning to its end, at least and at most.
        is_whole: nothing can stand in for what is gone, so recovery counts from the end of the fault.
        limit: seconds in which requests go on, of 99 of 100 faults; None: only that they go on is promised.
    """

    name: str
    make: Callable[[Cluster, random.Random], Awaitable[Fault]]
    lasts: tuple[float, float] = (0.0, 0.3)
    is_whole: bool = False
    limit: float | None = None
