"""Mixed requests that follow each other, each compared with the answer that came without a fault."""

import asyncio
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from chaos.cluster import Cluster
from chaos.questions import Question
from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion
from quire.engine.api.errors import Overloaded, QuireError, Unavailable

# Between an answer and the next request of the same asker, at most.
PAUSE_SECONDS = 0.2
RETRY_SECONDS = 0.05
# Far more than any fault lasts: what takes so long has been forgotten.
HANG_SECONDS = 120.0


@dataclass(eq=False)
class Ask:
    """One request, from its first try to its answer.

    Attributes:
        times: when something of it came, in seconds of `time.monotonic`.
        refusals: by a frontend that nothing had happened to, before the first token.
        retries: as its frontend was ended.
        fault: why it is lost, or what is different of its answer; "": neither.
        is_over: it was answered, or is lost.
    """

    question: Question
    times: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    retries: int = 0
    fault: str = ""
    is_lost: bool = False
    is_over: bool = False

    def longest_pause(self, since: float) -> float:
        """Seconds without anything new, behind a moment at which it was open."""
        ends = [at for at in self.times if at > since]
        if not self.is_over:
            ends.append(time.monotonic())
        begins = [since, *ends]
        return max((end - begin for begin, end in zip(begins, ends, strict=False)), default=0.0)


class Load:
    """Askers, each with one request at a time, until the context ends.

    Attributes:
        open: requests under way.
        ended: those that are over, since `take_ended`.
        num_answers: that came, all in all.
    """

    def __init__(self, cluster: Cluster, questions: list[Question], num_askers: int, seed: int) -> None:
        self._cluster = cluster
        self._questions = questions
        self._num_askers = num_askers
        self._chance = random.Random(seed)
        self._expected: dict[Question, list[Completion]] = {}
        self._clients: dict[str, AsyncClient] = {}
        self._over = asyncio.Event()
        self.open: set[Ask] = set()
        self.ended: list[Ask] = []
        self.num_answers = 0

    async def learn(self) -> None:
        """Asks everything once, while nothing happens."""
        name, *_ = self._cluster.frontends
        answers = await asyncio.gather(*(each.ask(self._client(name), lambda piece: None) for each in self._questions))
        self._expected = dict(zip(self._questions, answers, strict=True))

    async def run(self) -> None:
        """Asks until `stop`, and until everything is answered."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._num_askers):
                tasks.create_task(self._ask_on())

    def stop(self) -> None:
        """Asks nothing more."""
        self._over.set()

    async def ask_in_vain(self) -> None:
        """One more request, which the caller cancels."""
        client = self._client(self._chance.choice(self._cluster.frontends))
        with suppress(QuireError):  # its frontend may be gone
            await self._chance.choice(self._questions).ask(client, lambda piece: None)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def flowing(self, at_least: int) -> None:
        """Returns when so many streams have begun and not ended."""
        while sum(bool(ask.times) for ask in self.open) < at_least:
            await asyncio.sleep(0.005)

    async def moved(self, asks: Iterable[Ask], since: float) -> None:
        """Returns when each has brought something behind a moment, or is over."""
        for ask in asks:
            while not ask.is_over and not (ask.times and ask.times[-1] > since):
                await asyncio.sleep(0.01)

    def take_ended(self) -> list[Ask]:
        ended, self.ended = self.ended, []
        return ended

    def _client(self, frontend: str) -> AsyncClient:
        if frontend not in self._clients:
            self._clients[frontend] = AsyncClient(self._cluster.services[frontend].address, retries=False)
        return self._clients[frontend]

    async def _ask_on(self) -> None:
        while not self._over.is_set():
            ask = Ask(self._chance.choice(self._questions))
            self.open.add(ask)
            try:
                async with asyncio.timeout(HANG_SECONDS):
                    while not ask.is_over:
                        await self._try(ask)
            except TimeoutError:
                ask.is_lost, ask.fault = True, f"nothing came for {HANG_SECONDS:g} s"
            ask.is_over = True
            self.open.remove(ask)
            self.ended.append(ask)
            await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS))

    async def _try(self, ask: Ask) -> None:
        services = [self._cluster.services[name] for name in self._cluster.frontends]
        service = self._chance.choice([each for each in services if each.is_ready] or services)
        generation, num_before = service.generation, len(ask.times)
        pieces: list[Completion] = []

        def take(piece: Completion) -> None:
            pieces.append(piece)
            ask.times.append(time.monotonic())

        try:
            answers = await ask.question.ask(self._client(service.name), take)
        except QuireError as error:
            ask.fault = ask.question.begins_otherwise(pieces, self._expected[ask.question])
            if ask.fault:
                ask.is_over = True
            elif not isinstance(error, (Unavailable, Overloaded)):
                ask.is_over = ask.is_lost = True
                ask.fault = repr(error)
            elif service.generation > generation or not service.is_running:
                ask.retries += 1
                await asyncio.sleep(RETRY_SECONDS)
            elif len(ask.times) > num_before:
                ask.is_over = ask.is_lost = True
                ask.fault = repr(error)
            else:
                ask.refusals.append(str(error))
                await asyncio.sleep(RETRY_SECONDS)
        else:
            ask.times.append(time.monotonic())
            ask.fault = ask.question.differs(answers, self._expected[ask.question])
            ask.is_over = True
            self.num_answers += 1
