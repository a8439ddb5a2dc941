"""Snapshots of a scheduler for those who watch it: all of them see the same ones."""

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import chain, islice
from typing import Final

from quire.engine.api.errors import Overloaded
from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.latency import latency
from quire.services.scheduler.watch.watched_executor import WatchedExecutor

INTERVAL_SECONDS: Final = 0.5
MAX_READERS: Final = 64
MAX_RUNNING: Final = 256
MAX_WAITING: Final = 64


class Watch:
    """Gathers while somebody watches; a snapshot is made once for all, when the first of them is due for it.

    Args:
        dispatcher: knows executors and requests.
        journal: one of its observers.
    """

    def __init__(self, dispatcher: Dispatcher, journal: Journal) -> None:
        self._dispatcher = dispatcher
        self._journal = journal
        self._watched: dict[str, WatchedExecutor] = {}
        self._num_readers = 0
        self._number = 0
        self._made = time.monotonic()
        self._latest = pb.Snapshot()
        self._last_event = 0

    async def follow(self) -> AsyncGenerator[pb.Snapshot, None]:
        """A whole snapshot, then one every interval with what has changed. Who comes late for one gets a whole one.

        Raises:
            Overloaded: too many watch.
        """
        if self._num_readers >= MAX_READERS:
            raise Overloaded(f"{self._num_readers} watch, at most {MAX_READERS} may", INTERVAL_SECONDS)
        is_first = not self._num_readers
        if is_first:
            self._journal.executor_of = self._dispatcher.executor_of
            self._made, self._last_event = time.monotonic(), 0
        self._num_readers += 1
        try:
            self._advance()
            number = self._number
            # To the first one everything is new.
            yield self._latest if is_first else self._whole()
            while True:
                await asyncio.sleep(max(0.0, self._made + INTERVAL_SECONDS - time.monotonic()))
                if self._number == number:
                    self._advance()
                snapshot = self._latest if self._number == number + 1 else self._whole()
                number = self._number
                yield snapshot
        finally:
            self._num_readers -= 1
            if not self._num_readers:
                self._forget()

    def _advance(self) -> None:
        """Makes the next snapshot."""
        now = time.monotonic()
        interval, self._made = now - self._made, now
        self._attend()
        self._number += 1
        events = [event for event in self._journal.events if event.number > self._last_event]
        self._last_event = max((event.number for event in events), default=self._last_event)
        self._latest = pb.Snapshot(
            epoch=self._dispatcher.epoch,
            time_ms=time.time_ns() // 1_000_000,
            executors=[watched.changes() for watched in self._watched.values()],
            requests=self._requests(),
            events=events,
            figures=self._figures(interval),
        )

    def _whole(self) -> pb.Snapshot:
        """The latest snapshot, with all that is known beside what has changed."""
        return pb.Snapshot(
            epoch=self._dispatcher.epoch,
            time_ms=self._latest.time_ms,
            executors=[watched.whole() for watched in self._watched.values()],
            requests=self._latest.requests,
            events=self._journal.events,
            figures=self._latest.figures,
        )

    def _attend(self) -> None:
        """Observes the executors that are attached now, and no others."""
        attached = {executor.name: executor for executor in self._dispatcher.executors}
        for name, watched in list(self._watched.items()):
            if attached.get(name) is not watched.executor:
                self._watched.pop(name).close()
        for name in attached.keys() - self._watched.keys():
            self._watched[name] = WatchedExecutor(attached[name])

    def _forget(self) -> None:
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()
        self._journal.executor_of = None
        self._journal.take_ended()
        self._journal.take_first_tokens()

    def _requests(self) -> list[pb.RequestSnapshot]:
        executors, row = self._dispatcher.executors, self._journal.row
        running = (
            row(executor.name, sequence)
            for executor in executors
            for sequence in executor.scheduler.running
            if not sequence.is_finished
        )
        waiting = (row(executor.name, sequence) for executor in executors for sequence in executor.scheduler.waiting)
        unplaced = (row("", sequence) for sequence in self._dispatcher.unplaced)
        rows = [*islice(running, MAX_RUNNING), *islice(chain(waiting, unplaced), MAX_WAITING)]
        return rows + self._journal.take_ended()

    def _figures(self, interval: float) -> pb.StepFigures:
        figures = [watched.take_figures() for watched in self._watched.values()]
        return pb.StepFigures(
            interval_ms=max(1, round(1000 * interval)),
            num_generated=sum(each.num_generated for each in figures),
            num_context=sum(each.num_context for each in figures),
            num_reused=sum(each.num_reused for each in figures),
            time_to_first_token=latency([(seconds, 1) for seconds in self._journal.take_first_tokens()]),
            inter_token_latency=latency([pair for each in figures for pair in each.intervals]),
        )
