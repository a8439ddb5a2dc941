"""A frontend serves only with the tokenizer of the executors' model, wherever its folder lies."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.fingerprint import tokenizer_fingerprint
from quire.services.common.health import LIVE
from quire.services.up.ports import LOOPBACK, free_ports
from quire.services.up.process import Child
from quire.services.up.stack import has_executors
from support.stacks import SETTLE_SECONDS, RunningStack, another_frontend


@asynccontextmanager
async def frontend_of_another_model(stack: RunningStack, model: Path) -> AsyncIterator[tuple[str, str]]:
    """Its addresses for gRPC and HTTP; it knows of the executors."""
    place, http = (f"{LOOPBACK}:{port}" for port in islice(free_ports(), 2))
    places = {"listen": place, "http_listen": http, "scheduler": stack.stack.schedulers[0], "drain_seconds": 0}
    child = stack.call(
        Child.start(stack.stack.programs.service("other-model", "frontend", {**places, "model": str(model)}))
    )
    try:
        async with grpc.aio.insecure_channel(place) as channel:
            await asyncio.wait_for(channel.channel_ready(), SETTLE_SECONDS)
        stack.call(has_executors(place, 1))
        yield place, http
    finally:
        assert stack.call(child.stop(60)) == 0


async def test_another_tokenizer_serves_nothing_and_says_why(stack: RunningStack, tiny_model: Path) -> None:
    reason = "this frontend's tokenizer is not that of the executors' model"
    async with frontend_of_another_model(stack, tiny_model) as (place, http):
        async with grpc.aio.insecure_channel(place) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            # Nothing is won by starting it again.
            answer = await health.Check(health_pb2.HealthCheckRequest(service=LIVE))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with AsyncClient(place, timeout=60) as client:
            for prompt in ("a", [5]):
                with pytest.raises(Unavailable, match=reason):
                    await client.generate(prompt, SamplingParams(max_tokens=1))
        async with aiohttp.ClientSession(f"http://{http}") as session, session.get("/health") as response:
            assert response.status == 503
            assert reason in (await response.json())["error"]["message"]


async def test_a_copy_of_the_model_serves(stack: RunningStack, tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "copy")
    async with another_frontend(stack, model=str(folder)) as place, AsyncClient(place, timeout=60) as client:
        assert (await client.generate("a", SamplingParams(max_tokens=1))).usage is not None


def test_a_fingerprint_is_of_both_files(tmp_path: Path) -> None:
    assert tokenizer_fingerprint(tmp_path) == ""
    (tmp_path / "tokenizer.json").write_text("{}")
    alone = tokenizer_fingerprint(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert len({"", alone, tokenizer_fingerprint(tmp_path)}) == 3
