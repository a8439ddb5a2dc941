#!/usr/bin/env python3
"""Starts every service on free ports, loads them with a short sweep, and writes the report to a folder.

tools/bench.py FOLDER [FLAG OF quire bench serve]...
"""

import asyncio
import sys

from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

SWEEP = ("--concurrency=1,4,16", "--num-requests=32", "--slo=ttft:500", "--slo=tpot:100")


async def main(folder: str, *flags: str) -> int:
    """Returns the exit code of the benchmark."""
    settings = UpSettings(frontend_port=0, http_port=0, scheduler_port=0, executor_port=0, log_level="warning")
    stack = Stack(settings, quiet=True)
    try:
        await stack.start()
        command = (sys.executable, "-m", "quire.services.cli", "bench", "serve", f"--target=grpc://{stack.frontend}")
        process = await asyncio.create_subprocess_exec(*command, f"--report={folder}", *SWEEP, *flags)
        return await process.wait()
    finally:
        await stack.stop()


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(*sys.argv[1:])))
