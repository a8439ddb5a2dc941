"""`quire up`: everything on this machine, until Ctrl-C."""

import asyncio
import sys

from quire.engine.resources.ledger.connection import redacted
from quire.services.common.signals import unless_signalled
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

Settings = UpSettings


def run(settings: UpSettings) -> int:
    """Runs until SIGINT, SIGTERM or SIGHUP, or until a service ends by itself; returns the exit code."""
    return asyncio.run(_run(settings))


async def _run(settings: UpSettings) -> int:
    stack = Stack(settings)
    try:
        failure = await unless_signalled(_watch(stack))
        if failure is not None:
            print(f"{failure}; stopping", file=sys.stderr)
    finally:
        have_ended_well = await stack.stop()
    return 0 if failure is None and have_ended_well else 1


async def _watch(stack: Stack) -> str:
    """Starts the stack and waits until a service ends; returns a message about it."""
    await stack.start()
    print(_welcome(stack), flush=True)
    return await stack.failure()


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
