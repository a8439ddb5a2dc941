"""`quire up`: everything on this machine, until Ctrl-C."""

from quire.engine.resources.ledger.connection import redacted
from quire.services.common.address import is_loopback, joined
from quire.services.common.signals import run_service, unless_signalled
from quire.services.up.control import control_serving, default_control
from quire.services.up.ports import reachable
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

Settings = UpSettings


def run(settings: UpSettings) -> int:
    """Runs until SIGINT, SIGTERM or SIGHUP; returns the exit code."""
    return run_service(_run(settings))


async def _run(settings: UpSettings) -> int:
    stack = Stack(settings)
    try:
        await unless_signalled(_serve(stack, settings))
    finally:
        have_ended_well = await stack.stop()
    return 0 if have_ended_well else 1


async def _serve(stack: Stack, settings: UpSettings) -> None:
    await stack.start()
    place = settings.control or default_control(int(stack.frontend.rpartition(":")[2]))
    async with control_serving(place, stack):
        print(_welcome(stack, settings), flush=True)
        await stack.supervise()


def _welcome(stack: Stack, settings: UpSettings) -> str:
    metrics = f"\n  metrics    {', '.join(stack.metrics)}" if stack.metrics else ""
    host = settings.host
    has_page = is_loopback(joined(host, 0)) if settings.ui is None else settings.ui
    page = f"\n  live page  http://{stack.http}/ui/" if has_page else ""
    everywhere = "" if reachable(host) == host else "\n             the same ports on every address of this machine"
    return f"""
  frontend   {stack.frontend}    gRPC: quire.v1.InferenceService, health, reflection
             http://{stack.http}    /v1/completions, /v1/models, /health, /metrics{everywhere}
  scheduler  {", ".join(stack.schedulers)}
  executors  {", ".join(stack.executors)}{metrics}
  redis      {redacted(stack.redis)}{page}

  quire generate --address {stack.frontend} "def fibonacci(n):"
  Ctrl-C stops everything.
"""
