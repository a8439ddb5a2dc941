"""A process with a watchdog that gets stuck, or seems to.

    python stuck_process.py loop | step | "long step" | wait

Prints "watched" when it is; "wait" ends once it has read a line.
"""

import asyncio
import logging
import sys
import threading
import time

from quire.engine.activity import Activity
from quire.services.common.watchdog import watching

STALL_SECONDS = 0.5


def block_the_loop() -> None:
    threading.Event().wait()


def hang_in_a_step(activity: Activity) -> None:
    with activity.call(expected=0.0):
        threading.Event().wait()


def compute_for_long(activity: Activity) -> None:
    with activity.call(expected=60.0):
        time.sleep(3 * STALL_SECONDS)


async def main(way: str) -> None:
    logging.basicConfig()
    activity = Activity("a step")
    async with watching(STALL_SECONDS, [activity]):
        print("watched", flush=True)
        match way:
            case "loop":
                block_the_loop()
            case "step":
                await asyncio.to_thread(hang_in_a_step, activity)
            case "long step":
                await asyncio.to_thread(compute_for_long, activity)
            case "wait":
                await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
