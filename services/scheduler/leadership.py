"""What the servicer of this process may use: the dispatcher and the watch of the term that it leads, if it leads."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from quire.engine.api.errors import Unavailable
from quire.services.scheduler.adapters import Adapters
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.watch.watch import Watch


class Leadership:
    """A standby until `lead` is entered.

    Attributes:
        leading: the dispatcher of the term; None while another scheduler leads.
    """

    def __init__(self) -> None:
        self.leading: Dispatcher | None = None
        self._watch: Watch | None = None
        self._adapters: Adapters | None = None
        self._changed = asyncio.Event()
        self._is_over = False

    @property
    def dispatcher(self) -> Dispatcher:
        """
        Raises:
            Unavailable: another scheduler leads.
        """
        if self.leading is None:
            raise Unavailable("this scheduler is a standby")
        return self.leading

    @property
    def watch(self) -> Watch:
        """
        Raises:
            Unavailable: another scheduler leads.
        """
        if self._watch is None:
            raise Unavailable("this scheduler is a standby")
        return self._watch

    @property
    def adapters(self) -> Adapters:
        """
        Raises:
            Unavailable: another scheduler leads.
        """
        if self._adapters is None:
            raise Unavailable("this scheduler is a standby")
        return self._adapters

    async def began(self) -> Dispatcher:
        """Returns the dispatcher when this scheduler leads.

        Raises:
            Unavailable: it never will again.
        """
        while self.leading is None:
            if self._is_over:
                raise Unavailable("this scheduler ends")
            await self._changed.wait()
        return self.leading

    async def finished(self, seconds: float) -> None:
        """Returns when what is open has ended, or after so many seconds; nothing new begins. With 0 nothing is done."""
        if self.leading is not None and seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.leading.finished()

    def close(self) -> None:
        """This process is about to end: nobody needs to wait for it."""
        self._is_over = True
        self._changed.set()

    @contextmanager
    def lead(self, dispatcher: Dispatcher, watch: Watch, adapters: Adapters) -> Iterator[None]:
        """Leads while the context is open; then every frontend's stream ends."""
        self.leading, self._watch, self._adapters = dispatcher, watch, adapters
        self._changed.set()
        try:
            yield
        finally:
            self._changed.clear()
            self.leading = self._watch = self._adapters = None
            dispatcher.close()
