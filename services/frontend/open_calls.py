"""Requests whose calls have not ended: no more than a frontend may have, each for no longer than its deadline."""

import asyncio
import time
from collections.abc import Callable

from quire.engine.api.errors import Overloaded
from quire.engine.drain_rate import DrainRate
from quire.engine.open_request import OpenRequest
from quire.engine.shared_bound import SharedBound


class OpenCalls:
    """Those of one frontend, with those that have ended at the scheduler, whose clients have not read the end.

    Args:
        most: open at once; more are refused.
        abort: ends a request whose deadline is over.
    """

    def __init__(self, most: int, abort: Callable[[OpenRequest], None]) -> None:
        self._bound = SharedBound(most)
        self._abort = abort
        self._deadlines: dict[OpenRequest, asyncio.TimerHandle | None] = {}
        self._rate = DrainRate(time.monotonic)

    def __len__(self) -> int:
        return len(self._deadlines)

    def check(self, tenant: str, weight: int) -> None:
        """Raises `Overloaded` if one more of the tenant would be too many."""
        if self._bound.fits(tenant, weight):
            return
        if len(self) >= self._bound.most:
            message = f"{self._bound.most} requests are open on this frontend, the most it takes"
        else:
            message = f"{len(self)} requests are open on this frontend, {self._bound.excess(tenant, weight)}"
        raise Overloaded(message, self._rate.seconds_for(len(self)))

    def begin(self, request: OpenRequest) -> None:
        if not self._deadlines:
            self._rate.begin()
        self._bound.add(request.options.tenant, request.options.tenant_weight)
        timer = None
        if (deadline_ms := request.options.deadline_ms) is not None:
            timer = asyncio.get_running_loop().call_later(deadline_ms / 1000, self._abort, request)
        self._deadlines[request] = timer

    def end(self, request: OpenRequest) -> bool:
        """Whether it had not ended before."""
        if request not in self._deadlines:
            return False
        if timer := self._deadlines.pop(request):
            timer.cancel()
        self._bound.remove(request.options.tenant)
        self._rate.depart()
        return True

    def left_ms(self, request: OpenRequest) -> int | None:
        """Milliseconds until its deadline; None: it has none."""
        timer = self._deadlines.get(request)
        return None if timer is None else max(0, int(1000 * (timer.when() - asyncio.get_running_loop().time())))
