"""Whether another process still answers: gRPC answers pings by itself, also while nothing else of the process runs."""

import asyncio
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.services.common.health import LIVE

# A question may be late for a reason of ours, such as that this process was stopped; two in a row are not.
_QUESTIONS: Final = 2
# Between two questions that are answered, as a share of the time that a peer may be silent.
_PAUSE: Final = 0.125
_UNANSWERED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def answers(channel: grpc.aio.Channel, seconds: float) -> bool:
    """Whether the peer's event loop answers within so many seconds, whatever it says."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=LIVE), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code() not in _UNANSWERED
    return True


async def until_silent(channel: grpc.aio.Channel, seconds: float) -> None:
    """Returns when a peer has not answered for so many seconds; it is asked again and again."""
    clock = asyncio.get_running_loop().time
    num_unanswered = 0
    while num_unanswered < _QUESTIONS:
        asked = clock()
        if await answers(channel, seconds / _QUESTIONS):
            num_unanswered = 0
            await asyncio.sleep(seconds * _PAUSE)
        else:
            num_unanswered += 1
            # A connection that is refused is known at once, and may come back.
            await asyncio.sleep(asked + seconds / _QUESTIONS - clock())
