"""What goes round bodies: request ids, origins of web pages, and the routes that say whether and what is served."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from quire.engine.api.version import __version__
from quire.services.up.ports import LOOPBACK, free_port
from support.stacks import RunningStack, another_frontend

BODY = {"prompt": "a", "max_tokens": 1}


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def test_a_request_keeps_its_id(http: aiohttp.ClientSession) -> None:
    ids = set()
    for _ in range(2):
        async with http.post("/v1/completions", json=BODY, headers={"X-Request-Id": "mine"}) as response:
            assert response.headers.getall("X-Request-Id") == ["mine"]
            ids.add((await response.json())["id"])
    assert len(ids) == 2
    assert {each.rpartition("-")[0] for each in ids} == {"cmpl-mine"}
    body = {**BODY, "stream": True}
    async with http.post("/v1/completions", json=body, headers={"X-Request-Id": "mine"}) as response:
        assert response.headers["X-Request-Id"] == "mine"
        assert b'"id":"cmpl-mine-' in await response.read()


async def test_a_request_without_an_id_gets_one(http: aiohttp.ClientSession) -> None:
    for path in ("/health", "/nope"):
        async with http.get(path) as first, http.get(path) as second:
            assert len(first.headers["X-Request-Id"]) == 32
            assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


@pytest.mark.parametrize("given", ["x" * 97, "ü"])
async def test_an_id_that_will_not_do(http: aiohttp.ClientSession, given: str) -> None:
    async with http.get("/health", headers={"X-Request-Id": given}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "X-Request-Id"


async def test_headers_that_are_not_known_are_ignored(http: aiohttp.ClientSession) -> None:
    headers = {"X-Data-Parallel-Rank": "3", "OpenAI-Organization": "a", "Authorization": "Bearer b"}
    async with http.post("/v1/completions", json=BODY, headers=headers) as response:
        assert response.status == 200


async def test_what_is_served(http: aiohttp.ClientSession) -> None:
    async with http.get("/version") as response:
        assert await response.json() == {"version": __version__}
    async with http.get("/ping") as got, http.post("/ping") as posted:
        assert (got.status, posted.status) == (200, 200)


async def test_web_pages_may_not_call(http: aiohttp.ClientSession) -> None:
    async with http.get("/version", headers={"Origin": "https://a.example"}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_web_pages_of_a_setting_may_call(stack: RunningStack) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    origins = ("https://a.example", "https://b.example")
    asked = {"Origin": origins[1], "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    async with (
        another_frontend(stack, http_listen=place, http_cors_origins=origins),
        aiohttp.ClientSession(f"http://{place}") as http,
    ):
        async with http.options("/v1/chat/completions", headers=asked) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == origins[1]
            assert response.headers["Access-Control-Allow-Headers"] == "x-a"
        async with http.get("/version", headers={"Origin": origins[0]}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == origins[0]
            assert response.headers["Access-Control-Expose-Headers"] == "x-request-id"
        async with http.get("/version", headers={"Origin": "https://c.example"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
