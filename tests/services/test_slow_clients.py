"""Clients that do not read, or say nothing, slow only themselves."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack, aclosing

import psutil

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import FinishReason
from quire.engine.api.sampling import SamplingParams
from support.stacks import RunningStack

# Each answer is larger than what sockets and flow control hold of it.
NUM_TOKENS, NUM_CLIENTS = 250, 6
LARGE = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=20)
SHORT = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
# Far more than the results of all together.
MAX_GROWTH_MIB = 96
SECONDS = 60


def connect(address: str, sent: bytes = b"") -> socket.socket:
    """A connection that has sent this and takes next to nothing."""
    host, _, port = address.rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(sent)
    return client


def request(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def resident_mib(stack: RunningStack) -> float:
    return float(psutil.Process(stack.child("frontend").pid).memory_info().rss / 2**20)


async def test_who_does_not_read_keeps_nobody_waiting(stack: RunningStack) -> None:
    """Their answers are computed and gather at the frontend, and what they held is free, though they read nothing."""
    body = {"prompt": "def f(", "max_tokens": NUM_TOKENS, "ignore_eos": True, "logprobs": 20, "stream": True}
    before = resident_mib(stack)
    async with AsyncExitStack() as unread:
        client = await unread.enter_async_context(AsyncClient(stack.frontend, timeout=SECONDS))
        for _ in range(NUM_CLIENTS):
            unread.enter_context(connect(stack.http, request("/v1/completions", body)))
            stream = await unread.enter_async_context(aclosing(client.generate_stream("def f(", LARGE)))
            await anext(stream)
        async with AsyncClient(stack.frontend, timeout=SECONDS) as polite:
            for _ in range(4):
                answer = await polite.generate("Once", SHORT)
                assert answer.finish_reason is FinishReason.LENGTH
            await stack.assert_settled()
            assert (await polite.generate("Once", SHORT)).finish_reason is FinishReason.LENGTH
        assert resident_mib(stack) - before < MAX_GROWTH_MIB


async def test_who_says_nothing_keeps_nobody_waiting(stack: RunningStack) -> None:
    half = request("/v1/completions", {"prompt": "Once"})[:-1]
    async with AsyncExitStack() as silent:
        for address, sent in ((stack.http, b""), (stack.http, half), (stack.frontend, b""), (stack.frontend, b"PRI")):
            for _ in range(20):
                silent.enter_context(await asyncio.to_thread(connect, address, sent))
        async with AsyncClient(stack.frontend, timeout=SECONDS) as polite:
            assert (await polite.generate("Once", SHORT)).finish_reason is FinishReason.LENGTH
