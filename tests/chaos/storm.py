"""Faults one after another, each measured by what it does to the requests that it meets."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from chaos.cluster import Cluster, growth
from chaos.fault import Kind
from chaos.load import Load
from chaos.questions import Way

logger = logging.getLogger(__name__)

# Streams that are under way when a fault comes.
LEAST_STREAMS = 2
# Behind the last request, a fault comes within this time.
PAUSE_SECONDS = 0.2


@dataclass
class Row:
    """What faults of one kind have done.

    Attributes:
        num_touched: requests that were open when one came.
        num_lost, num_different: of all that ended until services were whole again.
        num_refused: requests that were refused at least once by a frontend that nothing had happened to.
        num_retried: whose frontend was ended.
        num_recomputed: tokens that were computed before.
        recoveries: of each fault, the longest time that any stream was without a token.
        audit: what was wrong with books.
        crashes: (name, exit code) of services that ended by themselves.
        messages: what was lost, different or refused, and how.
    """

    num_faults: int = 0
    num_touched: int = 0
    num_lost: int = 0
    num_different: int = 0
    num_refused: int = 0
    num_retried: int = 0
    num_recomputed: int = 0
    recoveries: list[float] = field(default_factory=list)
    audit: list[str] = field(default_factory=list)
    crashes: list[tuple[str, int]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def __add__(self, other: "Row") -> "Row":
        return Row(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Row)))


class Storm:
    """Lets faults happen.

    Attributes:
        rows: by kind; "none": of what ended behind the last fault.
    """

    def __init__(self, cluster: Cluster, load: Load, seed: int) -> None:
        self._cluster = cluster
        self._load = load
        self._chance = random.Random(seed)
        self.rows: dict[str, Row] = {}

    async def strike(self, kind: Kind) -> None:
        """One fault of this kind, from a cluster that is whole to one that is whole again."""
        await self._cluster.whole()
        await self._load.flowing(LEAST_STREAMS)
        await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS))
        recomputed = await self._cluster.recomputed()
        fault = await kind.make(self._cluster, self._chance)
        row = self.rows.setdefault(kind.name, Row())
        touched, began = set(self._load.open), time.monotonic()
        await fault.apply()
        try:
            await asyncio.sleep(self._chance.uniform(*kind.lasts))
        finally:
            await fault.undo()
        ended = time.monotonic()
        await self._cluster.whole()
        await self._load.moved(touched, ended)
        since = ended if kind.is_whole else began
        streams = [ask for ask in touched if ask.question.way is Way.STREAM]
        pause = max((ask.longest_pause(since) for ask in streams), default=0.0)
        row.recoveries.append(pause)
        logger.info("%s: %.2f s, %d requests", kind.name, pause, len(touched))
        row.num_recomputed += growth(recomputed, await self._cluster.recomputed())
        row.num_faults += fault.count
        row.num_touched += len(touched)
        self._take_ended(row)
        row.audit += await self._cluster.audit()
        row.crashes += self._cluster.take_crashes()

    async def run(self, kinds: Sequence[Kind], num_strikes: int) -> None:
        """Of each kind as many, in an order of chance."""
        order = [kinds[index % len(kinds)] for index in range(num_strikes)]
        self._chance.shuffle(order)
        for kind in order:
            await self.strike(kind)

    @property
    def total(self) -> Row:
        """All rows in one."""
        return sum(self.rows.values(), Row())

    def finish(self) -> None:
        """Takes what ended behind the last fault."""
        self._take_ended(self.rows.setdefault("none", Row()))

    def _take_ended(self, row: Row) -> None:
        for ask in self._load.take_ended():
            row.num_lost += ask.is_lost
            row.num_different += bool(ask.fault) and not ask.is_lost
            row.num_refused += bool(ask.refusals)
            row.num_retried += bool(ask.retries)
            if ask.fault:
                logger.error("lost or different: %s: %s", ask.fault, ask.question)
                row.messages.append(f"{ask.fault}: {ask.question}")
            row.messages += [f"refused: {refusal}" for refusal in ask.refusals[:1]]
