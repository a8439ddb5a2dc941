"""With the newest gRPC packages, which users get; those of this environment are older, as tools for developers ask."""

import sys
from pathlib import Path

from support.wheel import run

NEWEST = Path(sys.prefix) / "newest"
QUESTIONS = """
import asyncio
import grpc
from google.protobuf import __version__
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quire.services.common.health import Health

async def main():
    server, health = grpc.aio.server(), Health(["a"])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.set("nothing is here")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        listed = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    await server.stop(None)
    names = health_pb2.HealthCheckResponse.ServingStatus.Name
    print(__version__.split(".")[0], {name: names(each.status) for name, each in sorted(listed.statuses.items())})

asyncio.run(main())
"""


def test_a_text_comes_from_all_services(tmp_path: Path) -> None:
    demo = (sys.executable, "-m", "quire.services.cli", "demo", "--max-tokens", "8")
    prompt, text = "def fibonacci(n):", run(*demo, cwd=tmp_path, pythonpath=[NEWEST])
    assert text.startswith(prompt)
    assert text.removeprefix(prompt).strip()


def test_health_can_be_listed(tmp_path: Path) -> None:
    listed = run(sys.executable, "-c", QUESTIONS, cwd=tmp_path, pythonpath=[NEWEST])
    statuses = {"": "NOT_SERVING", "a": "NOT_SERVING", "live": "SERVING"}
    assert listed.strip() == f"7 {statuses}"
