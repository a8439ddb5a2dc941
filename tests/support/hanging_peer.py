"""A process that can be stopped: one end of a call that lasts until it is broken off.

    python hanging_peer.py serve ADDRESS
    python hanging_peer.py listen ADDRESS

Prints "ready" when its end is up.
"""

import asyncio
import sys

from quire.services.common.channel import open_channel
from quire.services.common.server import serving
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc


async def serve(address: str) -> None:
    async with serving(address, [], lambda server: None, grace=0):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def listen(address: str) -> None:
    async with open_channel(address) as channel:
        async for _ in inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(pb.GenerateRequest()):
            print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run({"serve": serve, "listen": listen}[sys.argv[1]](sys.argv[2]))
