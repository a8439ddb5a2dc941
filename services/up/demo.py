"""`quire demo`: everything on free ports, one text, and everything stopped again."""

import asyncio
import sys

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.protos.convert import generate_request
from quire.protos.status import from_rpc_error
from quire.services.common.channel import open_channel
from quire.services.common.signals import run_service, unless_signalled
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack
from quire.v1 import inference_pb2_grpc


class Settings(UpSettings):
    """Start everything on free ports, print a generated text, stop."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_DEMO_")

    prompt: str = "def fibonacci(n):"
    """Text to go on from."""

    max_tokens: int = Field(96, ge=1)
    """Tokens to generate."""

    frontend_port: int = 0
    """Port of the frontend; 0 chooses a free one."""

    http_port: int = 0
    """Port of the HTTP API; 0 chooses a free one."""

    scheduler_port: int = 0
    """Port of the scheduler; 0 chooses a free one."""

    executor_port: int = 0
    """Port of the executor; 0 chooses a free one."""

    executor: ExecutorConfig = ExecutorConfig(kv_memory_mib=64)
    """Settings of each executor; without any of them the KV pool has 64 MiB, enough for one text."""


def run(settings: Settings) -> int:
    """Returns the exit code."""
    return run_service(_run(settings))


async def _run(settings: Settings) -> int:
    stack = Stack(settings, quiet=True)
    try:
        shown = await unless_signalled(_show(stack, settings))
    finally:
        have_ended_well = await stack.stop()
    print("all stopped", file=sys.stderr)
    return 0 if shown and have_ended_well else 1


async def _show(stack: Stack, settings: Settings) -> bool:
    """Returns True once the text is printed."""
    print("starting redis, executor, scheduler and frontend ...", file=sys.stderr, flush=True)
    await stack.start()
    supervising = asyncio.create_task(stack.supervise())
    try:
        await _print_text(stack, settings)
    finally:
        supervising.cancel()
        await asyncio.wait((supervising,))
    return True


async def _print_text(stack: Stack, settings: Settings) -> None:
    params = SamplingParams(temperature=0.7, top_p=0.9, seed=4, max_tokens=settings.max_tokens)
    request = generate_request(settings.prompt, params, "demo")
    try:
        async with open_channel(stack.frontend) as channel:
            print(settings.prompt, end="", flush=True)
            async for piece in inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(request):
                print(piece.text, end="", flush=True)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    finally:
        print()
