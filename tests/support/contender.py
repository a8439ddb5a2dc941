"""A scheduler reduced to its transactions, for races over one pool."""

import asyncio
import random
import time
from hashlib import blake2b
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

from quire.engine.api.errors import LedgerLost, StaleEpoch
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix import HASH_BYTES
from quire.engine.resources.publication import Publication

NUM_BLOCKS = 64
POOL = PoolIdentity("pool", "first", "model", NUM_BLOCKS, block_size=16)


class Contender:
    """A scheduler that proposes random sound changes of its own mirror until it is told that it lost the pool."""

    def __init__(self, ledger: KVLedger, seed: int) -> None:
        self._ledger = ledger
        self._random = random.Random(seed)
        self.epoch = 0
        self.state = PoolState(NUM_BLOCKS)
        self.num_applied = 0
        self._rank = 0

    async def open(self) -> None:
        self.epoch = time.monotonic_ns() // 100  # whoever asks later gets the higher one
        self.state = await self._ledger.open(POOL, self.epoch)
        self._rank = max(self.state.cached.values(), default=0)

    async def commit(self) -> bool:
        """Whether the ledger took the next change; a refusal may only be for the epoch."""
        transaction = self._propose()
        self.state.apply(transaction)
        try:
            await self._ledger.commit(POOL, self.epoch, transaction)
        except (StaleEpoch, LedgerLost):
            return False
        self.num_applied += 1
        return True

    def _propose(self) -> LedgerTransaction:
        state, draw = self.state, self._random
        transaction = LedgerTransaction(step=state.step + 1)
        holds = [(holder, block) for holder, blocks in state.holds.items() for block in blocks]
        for holder, block in draw.sample(holds, min(len(holds), draw.randrange(6))):
            self._rank += 1
            transaction.release.append((holder, block, self._rank, draw.choice([0, 10**12 + self._rank])))
        unnamed = [block for block in state.refs if block not in state.hashes]
        for block in draw.sample(unnamed, len(unnamed) // 2):
            name = blake2b(b"%d/%d/%d" % (self.epoch, state.step, block), digest_size=HASH_BYTES).digest()
            transaction.publish.append(Publication(block, name))
        cached = list(state.cached)
        draw.shuffle(cached)
        transaction.evict += cached[: len(cached) // 3]
        holder = f"{self.epoch}-{state.step}"
        transaction.share += [(holder, block) for block in cached[len(cached) // 3 : len(cached) // 2]]
        free = [block for block in range(NUM_BLOCKS) if block not in state.refs and block not in state.hashes]
        transaction.acquire += [(holder, block) for block in draw.sample(free, min(len(free), 4))]
        return transaction


def fight(url: str, seed: int, num_transactions: int, met: Event, seen: Event, answers: "Queue[int]") -> None:
    """Opens the pool again and again and commits, in a process of its own; answers how often it lost the pool.

    No process leaves before one of them has lost the pool (`met`) and the test has seen enough (`seen`), however late
    the other one comes.
    """

    async def contend() -> int:
        ledger = RedisLedger.connect(url)
        contender = Contender(ledger, seed)
        num_lost = 0
        while contender.num_applied < num_transactions or not (met.is_set() and seen.is_set()):
            try:
                await contender.open()
            except StaleEpoch:
                continue  # the other one asked for its number later, but was faster
            for _ in range(5 + seed % 7):
                if not await contender.commit():
                    num_lost += 1
                    met.set()
                    break
            await asyncio.sleep(0.001)
        await ledger.close()
        return num_lost

    answers.put(asyncio.run(contend()))
