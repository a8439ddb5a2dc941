"""Requests of every kind that follow each other without a pause, from clients that retry as the documents say."""

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.engine.api.completion import join
from quire.engine.api.sampling import SamplingParams
from support.prompts import random_prompts

PROMPTS = random_prompts(6, 150, 2048, seed=7)[:4]
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.8, top_p=0.95, seed=5, ignore_eos=True)
PARAMS = (GREEDY, SEEDED, replace(GREEDY, repetition_penalty=1.1), SEEDED)
# Of one client in a row. Whoever gets nowhere so often has been refused, not sent away.
MAX_RETRIES = 20
RETRY_SECONDS = 0.1
HTTP_SECONDS = 120.0


class HttpClient:
    """One kept connection. It asks again when the server sends it away, or the connection has ended.

    Attributes:
        num_retries: so far.
    """

    def __init__(self, place: str) -> None:
        self._connection = http.client.HTTPConnection(place, timeout=HTTP_SECONDS)
        self._stop = threading.Event()
        self.num_retries = 0

    def close(self) -> None:
        self._stop.set()
        self._connection.close()

    def complete(self, prompt: list[int], params: SamplingParams, *, stream: bool) -> tuple[int, ...]:
        """The tokens of an answer."""
        body = json.dumps(_body(prompt, params) | {"stream": stream})
        for _ in range(MAX_RETRIES):
            try:
                self._connection.request("POST", "/v1/completions", body)
                with self._connection.getresponse() as response:
                    if response.status == 200:
                        tokens = _streamed(response) if stream else _whole(response)
                        if tokens is not None:
                            return tokens
                    else:
                        assert response.status == 503, (response.status, response.read())
                        response.read()
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()
            self.num_retries += 1
            self._stop.wait(RETRY_SECONDS)
        raise AssertionError(f"no answer after {MAX_RETRIES} retries")


def _body(prompt: list[int], params: SamplingParams) -> dict[str, Any]:
    names = ("temperature", "top_p", "seed", "max_tokens", "ignore_eos", "repetition_penalty")
    return {"prompt": prompt, "return_token_ids": True, **{name: getattr(params, name) for name in names}}


def _whole(response: http.client.HTTPResponse) -> tuple[int, ...]:
    return tuple(json.loads(response.read())["choices"][0]["token_ids"])


def _streamed(response: http.client.HTTPResponse) -> tuple[int, ...] | None:
    """None: it was cut off."""
    tokens: list[int] = []
    is_whole = False
    for line in response:
        if line.startswith(b"data: [DONE]"):
            is_whole = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                assert event["error"]["code"] == "unavailable", event
                return None
            tokens += event["choices"][0]["token_ids"]
    return tuple(tokens) if is_whole else None


class MixedLoad:
    """Askers of the frontend's two ports, each of which asks the same again and again, in its own way.

    Args:
        num_tokens: of an answer; of the last one to each kind of asker, four times as many.
        pause: of each asker between two requests, in seconds.

    Attributes:
        answers: how many came, by kind; all as expected, else the load raises.
    """

    def __init__(self, grpc_place: str, http_place: str, num_tokens: int = 120, pause: float = 0.0) -> None:
        self._grpc_place = grpc_place
        self._http_place = http_place
        self._pause = pause
        lengths = (num_tokens, num_tokens, num_tokens, 4 * num_tokens)
        self._params = [replace(each, max_tokens=count) for each, count in zip(PARAMS, lengths, strict=True)]
        self._expected: list[tuple[int, ...]] = []
        self._over = asyncio.Event()
        self._http_clients: list[HttpClient] = []
        self.answers: Counter[str] = Counter()

    @property
    def num_http_retries(self) -> int:
        return sum(client.num_retries for client in self._http_clients)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Asks while the context is open, and a whole round of answers before and behind it."""
        async with AsyncClient(self._grpc_place) as client:
            asked = (client.generate(prompt, params) for prompt, params in zip(PROMPTS, self._params, strict=True))
            self._expected = [tuple(answer.token_ids) for answer in await asyncio.gather(*asked)]
        async with asyncio.TaskGroup() as tasks:
            for ask in (self._streams, self._shared_call, self._blocking, self._http):
                tasks.create_task(ask())
            await self.round()
            yield
            await self.round()
            self._over.set()

    async def round(self) -> None:
        """Returns when every kind has brought two answers more, the second of which was asked for after now."""
        before = self.answers.copy()
        kinds = ("stream", "shared call", "blocking", "http", "http stream")
        while any(self.answers[kind] < before[kind] + 2 for kind in kinds):
            await asyncio.sleep(0.02)

    async def _streams(self) -> None:
        async with AsyncClient(self._grpc_place) as client:
            await self._all("stream", lambda index: self._stream(client, index))

    async def _shared_call(self) -> None:
        async with AsyncClient(self._grpc_place, multiplex=True) as client:
            await self._all("shared call", lambda index: self._stream(client, index))

    async def _blocking(self) -> None:
        with Client(self._grpc_place) as client:

            async def ask(index: int) -> tuple[int, ...]:
                answer = await asyncio.to_thread(client.generate, PROMPTS[index], self._params[index])
                return tuple(answer.token_ids)

            await self._each("blocking", 1, ask)

    async def _http(self) -> None:
        with ExitStack() as stack:

            async def ask(kind: str, index: int) -> None:
                client = HttpClient(self._http_place)
                stack.callback(client.close)
                self._http_clients.append(client)

                async def complete(index: int) -> tuple[int, ...]:
                    is_stream = kind == "http stream"
                    return await asyncio.to_thread(
                        client.complete, PROMPTS[index], self._params[index], stream=is_stream
                    )

                await self._each(kind, index, complete)

            async with asyncio.TaskGroup() as tasks:
                for index in range(2):
                    tasks.create_task(ask("http", index))
                    tasks.create_task(ask("http stream", index + 2))

    async def _all(self, kind: str, ask: Callable[[int], Awaitable[tuple[int, ...]]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index in range(len(PROMPTS)):
                tasks.create_task(self._each(kind, index, ask))

    async def _each(self, kind: str, index: int, ask: Callable[[int], Awaitable[tuple[int, ...]]]) -> None:
        while not self._over.is_set():
            tokens = await ask(index)
            assert tokens == self._expected[index], f"{kind} {index}: {tokens}, expected {self._expected[index]}"
            self.answers[kind] += 1
            await asyncio.sleep(self._pause)

    async def _stream(self, client: AsyncClient, index: int) -> tuple[int, ...]:
        pieces = [piece async for piece in client.generate_stream(PROMPTS[index], self._params[index])]
        return join(pieces).token_ids
