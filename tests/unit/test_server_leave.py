"""A gRPC server that leaves sends its clients to the one beside it, and ends what they have open."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.protos.channel import RETRYING_OPTIONS
from quire.services.common.held_port import HeldPort
from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK

SECONDS = 60.0
STATUS = health_pb2.HealthCheckResponse


async def status_of(stub: "health_pb2_grpc.HealthAsyncStub", name: str) -> grpc.StatusCode:
    """OK where a server has a service of this name."""
    try:
        await stub.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_calls_that_run_go_on_and_new_ones_go_to_the_server_beside_it() -> None:
    leaving = asyncio.Event()
    async with asyncio.timeout(SECONDS):
        with HeldPort("--listen", f"{LOOPBACK}:0") as port:
            old = serving(port.address, ["old"], lambda server: None, 1.0, leaving=leaving, shares_port=True)
            async with (
                grpc.aio.insecure_channel(port.address, options=RETRYING_OPTIONS) as channel,
                old as health,
            ):
                stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)  # type: ignore[assignment]
                watched = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="old")))
                assert (await anext(watched)).status == STATUS.NOT_SERVING
                async with serving(port.address, ["new"], lambda server: None, 0.0, shares_port=True):
                    assert await status_of(stub, "old") is grpc.StatusCode.OK
                    leaving.set()
                    # The one on its way as the old one leaves may be the last that it answers.
                    while await status_of(stub, "new") is not grpc.StatusCode.OK:
                        await asyncio.sleep(0.01)
                    assert await status_of(stub, "old") is grpc.StatusCode.NOT_FOUND
                    await health.set("")
                    assert (await anext(watched)).status == STATUS.SERVING
