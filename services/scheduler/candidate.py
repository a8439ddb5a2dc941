"""A scheduler's way to the lead and its stay there; it knows nothing of what a leader does."""

import asyncio
import logging
from typing import NoReturn

from quire.engine.api.errors import LedgerUnreachable
from quire.engine.resources.ledger.lease import Holder, LeaderLease, Term, monotonic

logger = logging.getLogger(__name__)

# So often a lease is renewed within its length: a renewal or two may be late.
RENEWALS = 4


class Candidate:
    """Waits for the lease as a standby, and renews it as the leader."""

    def __init__(self, lease: LeaderLease) -> None:
        self._lease = lease
        self._pause = lease.seconds / RENEWALS

    async def elected(self, above: int = 0) -> Term:
        """Returns when this scheduler leads: at once if nobody else does.

        Args:
            above: the term's epoch is higher than this.

        Raises:
            LedgerUnreachable: Redis does not answer the first question; later ones are asked again.
        """
        answer = await self._lease.take(above)
        seen: Holder | None = None
        since, is_silent = 0.0, False
        while isinstance(answer, Holder):
            if seen is None or answer.leader != seen.leader:
                logger.info("standby: %s leads in epoch %d", answer.leader, answer.epoch)
            if not answer.is_as(seen):
                seen, since = answer, monotonic()
            above = max(above, answer.epoch)
            # By our own clock, as Redis's may have been set back.
            is_abandoned = monotonic() - since >= answer.seconds
            try:
                await self._lease.released(answer)
                answer = await self._lease.take(above, seen if is_abandoned else None)
                is_silent = False
            except LedgerUnreachable as error:
                if not is_silent:
                    logger.warning("standby: %s", error)
                is_silent = True
                await asyncio.sleep(self._pause)
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
