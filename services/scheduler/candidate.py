"""A scheduler's way to the lead and its stay there; it knows nothing of what a leader does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from quire.engine.api.errors import LedgerDenied, LedgerUnreachable
from quire.engine.resources.ledger.lease import Holder, LeaderLease, Term, monotonic

logger = logging.getLogger(__name__)

# So often a lease is renewed within its length: a renewal or two may be late.
RENEWALS = 4


async def _nobody(_: str) -> None:
    """Is told."""


class Candidate:
    """Waits for the lease as a standby, and renews it as the leader."""

    def __init__(self, lease: LeaderLease) -> None:
        self._lease = lease
        self._pause = lease.seconds / RENEWALS
        self._was_answered = False

    async def elected(self, above: int = 0, tell: Callable[[str], Awaitable[None]] = _nobody) -> Term:
        """Returns when this scheduler leads: at once if nobody else does.

        Args:
            above: the term's epoch is higher than this.
            tell: is told what this waits for.

        Raises:
            LedgerDenied: Redis answers the first question of all, but not to this client.
        """
        answer = await self._ask(above, tell)
        seen: Holder | None = None
        since = 0.0
        while isinstance(answer, Holder):
            if seen is None or answer.leader != seen.leader:
                await tell(f"standby: {answer.leader} leads in epoch {answer.epoch}")
            if not answer.is_as(seen):
                seen, since = answer, monotonic()
            above = max(above, answer.epoch)
            # By our own clock, as Redis's may have been set back.
            is_abandoned = monotonic() - since >= answer.seconds
            answer = await self._ask(above, tell, answer, seen if is_abandoned else None)
        return answer

    async def _ask(
        self,
        above: int,
        tell: Callable[[str], Awaitable[None]],
        holder: Holder | None = None,
        abandoned: Holder | None = None,
    ) -> Term | Holder:
        """Asks for the lease, behind the time of whoever holds it, until Redis answers; it may be gone for a while."""
        is_silent = False
        while True:
            try:
                if holder is not None:
                    await self._lease.released(holder)
                answer = await self._lease.take(above, abandoned)
            except LedgerUnreachable as error:
                if isinstance(error, LedgerDenied) and not self._was_answered:
                    raise
                if not is_silent:
                    logger.warning("standby: %s", error)
                    await tell(f"standby: {error}")
                is_silent = True
                await asyncio.sleep(self._pause)
            else:
                self._was_answered = True
                return answer

    async def keep(self, term: Term) -> NoReturn:
        """Renews the lease until cancelled.

        Raises:
            StaleEpoch: another scheduler leads.
        """
        is_silent = False
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self._lease.renew(term)
            except LedgerUnreachable as error:
                if not is_silent:
                    logger.warning("the leader's lease cannot be renewed, no plan leaves once it ends: %s", error)
                is_silent = True
            else:
                if is_silent:
                    logger.info("the leader's lease is renewed again")
                is_silent = False

    async def resign(self, term: Term) -> None:
        """Lets another scheduler lead at once, if Redis answers; else when the lease ends."""
        try:
            async with asyncio.timeout(self._lease.seconds):
                await self._lease.release(term)
        except (LedgerUnreachable, TimeoutError) as error:
            logger.info("the leader's lease is left to end: %s", error or "Redis does not answer")
