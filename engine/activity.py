"""What a thread is at, for a watchdog on another one."""

from collections.abc import Iterator
from contextlib import contextmanager


class Activity:
    """Calls of one thread, one after another, each of which must end. That thread writes it, any may read it.

    Args:
        name: of what the calls do, for people.

    Attributes:
        count: changes when a call begins or ends.
        expected: seconds that the call that runs may take at the least; None: none runs.
    """

    __slots__ = ("count", "expected", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.expected: float | None = None

    @contextmanager
    def call(self, expected: float) -> Iterator[None]:
        """A call runs while the context is open."""
        self.expected = expected
        self.count += 1
        try:
            yield
        finally:
            self.expected = None
            self.count += 1
