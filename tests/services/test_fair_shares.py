"""A tenant beside another one that floods the services, counted in tokens."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import Overloaded
from quire.engine.api.options import CacheParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.protos.credentials import Credentials
from support.key_file import KeyFile, new_key
from support.stacks import RunningStack, another_frontend

# Eight blocks each, so that the pool holds twelve, and the others wait.
PROMPT = list(range(100, 180))
PARAMS = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
UNCACHED = RequestOptions(cache=CacheParams(opt_out=True))
# Requests of one length end together. So more wait than can start at once, or a tenant has nothing waiting meanwhile.
CALLERS = 16
# Of the polite tenant: answers before it is measured, and meanwhile.
WARMUP, ENOUGH = 18, 36


class Load:
    """Tenants' callers, each of whom asks again as soon as it is answered or refused.

    Attributes:
        tokens, answers, refusals: by tenant.
        refused: of these, while the polite tenant was measured.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._answered = asyncio.Event()
        self.tokens: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    async def share(self, polite: str, num_polite: int, other: str, num_others: int) -> float:
        """Of all tokens that are made while the polite tenant gets `ENOUGH` answers, those that are its own."""
        loads = [self._load(polite, num_polite), self._load(other, num_others)]
        tasks = [asyncio.create_task(load) for load in loads]
        await self._answers(tasks, polite, WARMUP)
        before, refusals = self.tokens.copy(), self.refusals.copy()
        await self._answers(tasks, polite, WARMUP + ENOUGH)
        made = self.tokens - before
        self.refused = self.refusals - refusals
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        return made[polite] / made.total()

    async def _answers(self, tasks: list[asyncio.Task[None]], name: str, count: int) -> None:
        while self.answers[name] < count and not any(task.done() for task in tasks):
            self._answered.clear()
            await self._answered.wait()

    async def _load(self, name: str, num_callers: int) -> None:
        credentials = Credentials(token=new_key(name))
        async with (
            AsyncClient(self._address, multiplex=True, credentials=credentials) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(num_callers):
                tasks.create_task(self._ask(client, name))

    async def _ask(self, client: AsyncClient, name: str) -> None:
        while True:
            try:
                async for piece in client.generate_stream(PROMPT, PARAMS, options=UNCACHED):
                    self.tokens[name] += len(piece.token_ids)
                self.answers[name] += 1
                self._answered.set()
            except Overloaded:
                self.refusals[name] += 1
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.toml", "polite", "fair", "flood", "gold")
    file.tables["gold"] |= {"weight": 3}
    file.write()
    return file.path


@pytest.fixture
async def address(stack: RunningStack, keys: Path) -> AsyncIterator[str]:
    async with another_frontend(stack, api_keys=str(keys)) as place:
        yield place


# Callers that the machine starves leave nothing waiting, and a tenant with nothing waiting has no share.
@pytest.mark.long
async def test_a_flood_takes_no_more_than_a_fair_competitor(address: str, stack: RunningStack) -> None:
    beside_fair, beside_flood, of_gold = Load(address), Load(address), Load(address)
    fair = await beside_fair.share("polite", CALLERS, "fair", CALLERS)
    flooded = await beside_flood.share("polite", CALLERS, "flood", 10 * CALLERS)
    gold = await of_gold.share("gold", 2 * CALLERS, "flood", 10 * CALLERS)
    assert flooded >= 0.9 * fair
    assert gold >= 0.9 * 3 / 4
    for name, load in (("polite", beside_flood), ("gold", of_gold)):
        assert load.refused[name] <= ENOUGH // 10 < load.refused["flood"], "it finds room"
