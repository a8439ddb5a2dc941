"""Ends this process when it is stuck: whoever runs it starts it again, and its peers find their connections closed."""

import asyncio
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from quire.engine.activity import Activity

logger = logging.getLogger(__name__)

# EX_SOFTWARE of sysexits.h.
STUCK_EXIT_CODE: Final = 70
# Looks at each activity within the shortest time that may pass without progress.
_LOOKS: Final = 16
# To say what is stuck: whoever should read it may be stuck, too.
_REPORT_SECONDS: Final = 1.0


@asynccontextmanager
async def watching(seconds: float, activities: Iterable[Activity] = ()) -> AsyncIterator[None]:
    """Watches the event loop and the activities of other threads while the context is open.

    The process ends with `STUCK_EXIT_CODE` when the loop runs nothing for `seconds`, or when a call of an activity
    lasts longer than expected by so much. Time in which the whole process is stopped does not count.
    """
    pause = seconds / _LOOKS
    loop_activity = Activity("the event loop")
    loop_activity.expected = 0.0
    beating = asyncio.create_task(_beat(loop_activity, pause))
    stop = threading.Event()
    watched = [loop_activity, *activities]
    thread = threading.Thread(target=_watch, args=(watched, seconds, pause, stop), name="quire-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        beating.cancel()


async def _beat(activity: Activity, pause: float) -> NoReturn:
    while True:
        activity.count += 1
        await asyncio.sleep(pause)


def _watch(activities: list[Activity], seconds: float, pause: float, stop: threading.Event) -> None:
    counts = [-1] * len(activities)
    # Looks without progress, not the clock: what time passes while the process is stopped is nobody's fault.
    still = [0.0] * len(activities)
    while not stop.wait(pause):
        for index, activity in enumerate(activities):
            count, expected = activity.count, activity.expected
            if expected is None or count != counts[index]:
                counts[index], still[index] = count, 0.0
                continue
            still[index] += pause
            if still[index] >= seconds + expected:
                _end(f"{activity.name} makes no progress for {still[index]:.1f} s")


def _end(reason: str) -> NoReturn:
    reporting = threading.Thread(target=_report, args=(reason,), daemon=True)
    reporting.start()
    reporting.join(_REPORT_SECONDS)
    os._exit(STUCK_EXIT_CODE)


def _report(reason: str) -> None:
    logger.critical("%s: this process ends, so that it is started again; its threads are at", reason)
    faulthandler.dump_traceback(sys.__stderr__ or 2)
