"""The leader's lease in Redis: one scheduler leads at a time, and every term has a higher epoch than those before.

The keys share one hash tag, so that a cluster keeps them on one node:

    quire:{leader}:lease     hash    leader, epoch, beat (number of renewals), milliseconds; expires unless renewed
    quire:{leader}:epoch     string  the last epoch given out
    quire:{leader}:released  list    an item for one who waits, when a leader ends its term itself

docs/high_availability.md says what follows from this, and what executors and pools add to it; docs/lease_protocol.md
is a model of all of it that is searched exhaustively.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis, RedisCluster

from quire.engine.api.errors import LedgerError, StaleEpoch
from quire.engine.api.limits import MAX_COUNTER
from quire.engine.resources.ledger.connection import reaching
from quire.engine.resources.ledger.script import Script

_LEASE, _EPOCH, _RELEASED = (f"quire:{{leader}}:{part}" for part in ("lease", "epoch", "released"))
# Of a lease that its holder does not count on: clocks differ, and a plan takes its time to arrive.
_MARGIN: Final = 0.1
# The longest time that the server blocks a call; clients give a call up after five seconds.
_LONGEST_WAIT_SECONDS: Final = 1.0


def monotonic() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Term:
    """One scheduler's time as the leader. It acts only while it holds the lease by its own clock.

    Args:
        until: the lease holds until then, as `monotonic` counts; default: for ever.

    Attributes:
        epoch: of this term alone, and higher than that of any term before, unless Redis has lost the last one.
        leader: name of the scheduler; no other process ever has it.
    """

    def __init__(self, epoch: int, leader: str, until: float = math.inf) -> None:
        self.epoch = epoch
        self.leader = leader
        self._until = until
        self._extended = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """Whether the lease holds now."""
        return monotonic() < self._until

    def extend(self, until: float) -> None:
        """The lease was renewed."""
        self._until = until
        self._extended.set()

    async def lapsed(self) -> None:
        """Returns when the lease does not hold any more."""
        while (left := self._until - monotonic()) > 0:
            await asyncio.sleep(min(left, _LONGEST_WAIT_SECONDS))

    async def held(self) -> None:
        """Returns when the lease holds: mostly at once."""
        while not self.is_held:
            self._extended.clear()
            await self._extended.wait()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who leads, as Redis has it.

    Attributes:
        leader, epoch: of its term.
        beat: number of renewals.
        seconds: length of its lease.
        seconds_left: of it, by Redis's clock.
    """

    leader: str
    epoch: int
    beat: int
    seconds: float
    seconds_left: float

    def is_as(self, other: "Holder | None") -> bool:
        """Whether the lease was not renewed between the two sights of it."""
        return other is not None and (self.leader, self.beat) == (other.leader, other.beat)


class LeaderLease:
    """One candidate's hand on the lease.

    Every method raises `LedgerUnreachable` when Redis does not answer.

    Args:
        redis: a client without `decode_responses`; whoever made it closes it.
        leader: this candidate's name, which no other process ever has.
        seconds: length of the lease: how long after its last renewal another may lead.
    """

    def __init__(self, redis: Redis | RedisCluster, leader: str, seconds: float) -> None:
        self.seconds = seconds
        self._redis = redis
        self._leader = leader
        self._take, self._renew, self._release = (
            Script(f"lease_{action}.lua") for action in ("take", "renew", "release")
        )

    async def take(self, above: int = 0, abandoned: Holder | None = None) -> Term | Holder:
        """A new term, or who holds the lease.

        Args:
            above: the term's epoch is higher than this, and than any given out before. Epochs end at `MAX_COUNTER`,
                which is given out again and again then.
            abandoned: this holder loses the lease, if it has not renewed it since it was seen. Redis's clock may have
                been set back, so that the lease does not expire in time.
        """
        seen = (abandoned.leader, abandoned.beat) if abandoned else ("", "")
        began = monotonic()
        with reaching():
            reply = await self._take(
                self._redis, (_LEASE, _EPOCH), self._leader, self._milliseconds, above, MAX_COUNTER, *seen
            )
        match reply:
            case [b"TAKEN", bytes(epoch)]:
                return Term(int(epoch), self._leader, self._end(began))
            case [b"HELD", bytes(leader), bytes(epoch), bytes(beat), bytes(length), bytes(left)]:
                seconds = int(length) / 1000
                # A lease without an end is of an administrator's making.
                seconds_left = int(left) / 1000 if int(left) >= 0 else seconds
                return Holder(leader.decode(), int(epoch), int(beat), seconds, seconds_left)
        raise LedgerError(f"the leader's lease: unexpected reply {reply!r}")

    async def renew(self, term: Term) -> None:
        """Extends the term.

        Raises:
            StaleEpoch: another term has begun.
        """
        began = monotonic()
        with reaching():
            reply = await self._renew(self._redis, (_LEASE, _EPOCH), term.leader, term.epoch, self._milliseconds)
        match reply:
            case [b"OK"]:
                term.extend(self._end(began))
            case [b"LOST", bytes(last), bytes(leader)]:
                held = f"the leader's lease is held by {leader.decode()}, ours was of epoch {term.epoch}"
                raise StaleEpoch(held, max(int(last), term.epoch))
            case _:
                raise LedgerError(f"the leader's lease: unexpected reply {reply!r}")

    async def release(self, term: Term) -> None:
        """Ends the term, so that another may begin at once; harmless if another has begun."""
        with reaching():
            await self._release(self._redis, (_LEASE, _EPOCH, _RELEASED), term.leader, term.epoch, self._milliseconds)

    async def released(self, holder: Holder) -> None:
        """Returns when the holder has released the lease, and at the latest when it would end."""
        seconds = min(holder.seconds_left, holder.seconds, _LONGEST_WAIT_SECONDS) + 0.001
        with reaching():
            # One of all that wait gets the item; the others ask when the lease ends.
            await self._redis.blpop([_RELEASED], timeout=seconds)

    @property
    def _milliseconds(self) -> int:
        return round(1000 * self.seconds)

    def _end(self, began: float) -> float:
        """When a lease ends by our clock that was asked for at `began`: not later than Redis ends it."""
        return began + (1 - _MARGIN) * self.seconds
