"""`quire up`: everything on this machine, until Ctrl-C."""

import asyncio
import sys

from quire.engine.resources.ledger.connection import redacted
from quire.services.common.server import until_signal
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

Settings = UpSettings


def run(settings: UpSettings) -> int:
    """Runs until SIGINT or SIGTERM, or until a service ends by itself; returns the exit code."""
    return asyncio.run(_run(settings))


async def _run(settings: UpSettings) -> int:
    stack = Stack(settings)
    signalled = asyncio.create_task(until_signal())
    try:
        starting = asyncio.create_task(stack.start())
        await asyncio.wait((starting, signalled), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            print(_welcome(stack), flush=True)
            failing = asyncio.create_task(stack.failed())
            await asyncio.wait((failing, signalled), return_when=asyncio.FIRST_COMPLETED)
            failing.cancel()
            if not signalled.done():
                child = failing.result()
                print(f"{child.name} ended with exit code {await child.wait()}; stopping", file=sys.stderr)
                return 1
        else:
            starting.cancel()
    finally:
        signalled.cancel()
        codes = await stack.stop()
    return max(codes, default=0)


def _welcome(stack: Stack) -> str:
    return f"""
  frontend   {stack.frontend}    gRPC: quire.v1.InferenceService, health, reflection
             http://{stack.http}    /v1/completions, /v1/models, /health
  scheduler  {stack.scheduler}
  executors  {", ".join(stack.executors)}
  redis      {redacted(stack.redis)}

  quire generate --address {stack.frontend} "def fibonacci(n):"
  Ctrl-C stops everything.
"""
