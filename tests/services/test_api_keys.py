"""API keys over HTTP and gRPC: who is answered, how much of it, and that tenants notice nothing of each other."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.errors import Forbidden, Overloaded, QuireError, Unauthenticated
from quire.engine.api.options import CacheParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.internal.v1 import worker_pb2, worker_pb2_grpc
from quire.kserve import open_inference_pb2, open_inference_pb2_grpc
from quire.protos.credentials import Credentials
from quire.services.cli import main
from quire.services.up.ports import LOOPBACK, free_ports
from quire.services.up.stack import is_serving
from support.adapters import write_adapter
from support.key_file import KeyFile, key_hash, new_key
from support.kserve import input_tensor
from support.stacks import RunningStack

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
# So long that it still runs when others have been asked about it.
LONG = SamplingParams(temperature=0, max_tokens=1400, ignore_eos=True)
NAMES = (
    *("ann", "bob", "gone", "rotated", "late", "other-model", "urgent", "operator", "one-share", "two-share"),
    *("one-at-once", "one-a-minute", "few-tokens", "with-workers", "many", "http-id", "leaver", "base-only"),
)
MODEL = DEMO_MODEL.name
# The limit only ends a hang.
SECONDS = 60


@dataclass(frozen=True)
class Keyed:
    """A frontend that wants keys, another one with two workers, and what both have logged.

    Attributes:
        keys: of both.
        grpc, http, workers, workers_http: their addresses.
    """

    keys: KeyFile
    grpc: str
    http: str
    workers: str
    workers_http: str
    log: Path

    def client(self, name: str, **more: Any) -> AsyncClient:
        return AsyncClient(self.grpc, timeout=SECONDS, credentials=Credentials(token=new_key(name)), **more)

    async def post(self, name: str | None, path: str = "/v1/completions", **fields: Any) -> aiohttp.ClientResponse:
        """An answer that is read."""
        body = {"prompt": "Once", "max_tokens": 2, **fields}
        return await self.ask("POST", path, {} if name is None else bearer(name), json=body)

    async def ask(self, method: str, path: str, headers: dict[str, str], **more: Any) -> aiohttp.ClientResponse:
        url = f"http://{self.http}{path}"
        limit = aiohttp.ClientTimeout(SECONDS)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(method, url, headers=headers, **more) as response,
        ):
            await response.read()
            return response


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {new_key(name)}"}


@pytest.fixture(scope="module")
def keyed(shared_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keys")
    keys, log = KeyFile(folder / "keys.toml", *NAMES), folder / "log"
    changes: dict[str, dict[str, Any]] = {
        "late": {"expires": datetime(2020, 1, 1, tzinfo=UTC)},
        "other-model": {"models": ["another"]},
        "base-only": {"models": [MODEL]},
        "urgent": {"max_priority": 10},
        "operator": {"operator": True},
        "one-share": {"shared_cache": True},
        "two-share": {"shared_cache": True},
        "one-at-once": {"max_concurrent_requests": 1},
        "one-a-minute": {"requests_per_minute": 1},
        "few-tokens": {"tokens_per_minute": 10},
    }
    for name, table in changes.items():
        keys.tables[name] |= table
    keys.write()
    places = [f"{LOOPBACK}:{port}" for port in islice(free_ports(), 4)]
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack, log.open("w") as output:
        for place, http, workers in ((*places[:2], "1"), (*places[2:], "2")):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "quire.services.cli", "frontend", "--listen", place, "--http-listen", http),
                    *("--scheduler", shared_stack.stack.schedulers[0], "--api-keys", str(keys.path), "--ui"),
                    *("--workers", workers, "--drain-seconds", "0", "--log-level", "debug", "--adapter-updates"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            processes.append(process)
            stack.callback(process.kill)
        for place in (places[0], places[2]):
            shared_stack.call(is_serving(place))
        yield Keyed(keys, *places, log)
        for process in processes:
            process.terminate()
        assert [process.wait(SECONDS) for process in processes] == [0, 0]
    asyncio.run(shared_stack.assert_settled())


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    found: dict[str, Any] = (await response.json())["error"]
    return found


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer nobody's", f"Basic {new_key('ann')}", new_key("ann"), "Bearer " + "x" * 999],
)
async def test_unknown_keys(keyed: Keyed, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/score"):
        response = await keyed.ask("POST", path, headers, json={"prompt": "Once"})
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await error_of(response))["code"] == "invalid_api_key"
    for path in ("/v1/models", "/metrics", "/ui/", "/ui/events", "/version", "/tokenizer_info", "/v2", "/nowhere"):
        assert (await keyed.ask("GET", path, headers)).status == 401
    metadata = [] if authorization is None else [("authorization", authorization)]
    async with grpc.aio.insecure_channel(keyed.grpc) as channel:
        for method in ("InferenceService/Generate", "InferenceService/GenerateStream", "InferenceService/Abort"):
            call = channel.unary_unary(f"/quire.v1.{method}")(b"", metadata=metadata, timeout=SECONDS)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        many = channel.stream_stream("/quire.v1.InferenceService/GenerateMany")(metadata=metadata, timeout=SECONDS)
        assert await many.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_wants_no_key(keyed: Keyed) -> None:
    for path in ("/health", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert (await keyed.ask("GET", path, {})).status == 200
    async with grpc.aio.insecure_channel(keyed.grpc) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await stub.ServerReady(open_inference_pb2.ServerReadyRequest(), timeout=SECONDS)).ready


async def test_known_keys(keyed: Keyed) -> None:
    assert (await keyed.post("ann")).status == 200
    async with keyed.client("ann") as client:
        assert len((await client.generate("Once", GREEDY)).token_ids) == 4
        assert len(join([piece async for piece in client.generate_stream("Once", GREEDY)]).token_ids) == 4
        assert await client.tokenize("Once")
        assert (await client.server()).num_executors
    async with grpc.aio.insecure_channel(keyed.grpc) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        name = (await keyed_model(keyed)).name
        inputs = [input_tensor("text_input", ["Once"]), input_tensor("max_tokens", [2])]
        request = open_inference_pb2.ModelInferRequest(model_name=name, inputs=inputs)
        metadata = [("authorization", f"Bearer {new_key('ann')}")]
        assert (await stub.ModelInfer(request, metadata=metadata, timeout=SECONDS)).outputs


async def keyed_model(keyed: Keyed) -> Any:
    async with keyed.client("ann") as client:
        return await client.model()


async def test_only_operators_see_what_tells_of_all(keyed: Keyed) -> None:
    for path in ("/metrics", "/ui/"):
        refused = await keyed.ask("GET", path, bearer("ann"))
        assert (refused.status, (await error_of(refused))["code"]) == (403, "permission_denied")
        assert (await keyed.ask("GET", path, bearer("operator"))).status == 200


async def test_a_key_that_is_taken_away(keyed: Keyed) -> None:
    """Also under a call that is open."""
    async with keyed.client("gone", multiplex=True) as client:
        running = client.generate_stream("Once", LONG)
        pieces = [await anext(running)]
        del keyed.keys.tables["gone"]
        keyed.keys.write()
        with pytest.raises(Unauthenticated):
            await anext(client.generate_stream("Once", GREEDY))
        pieces += [piece async for piece in running]
        assert join(pieces).finish_reason is FinishReason.LENGTH
    assert (await keyed.post("gone")).status == 401


async def test_rotation(keyed: Keyed) -> None:
    table = keyed.keys.tables["rotated"]
    table["sha256"] = [key_hash(new_key("rotated")), key_hash(new_key("its newer one"))]
    keyed.keys.write()
    assert [(await keyed.post(name)).status for name in ("rotated", "its newer one")] == [200, 200]
    table["sha256"] = table["sha256"][1:]
    keyed.keys.write()
    assert [(await keyed.post(name)).status for name in ("rotated", "its newer one")] == [401, 200]
    keyed.keys.write("[broken")
    assert [(await keyed.post(name)).status for name in ("rotated", "its newer one")] == [401, 200]
    keyed.keys.write()


async def test_what_a_key_does_not_allow(keyed: Keyed) -> None:
    cases: list[tuple[str, int, type[QuireError] | None, int]] = [
        ("late", 0, Unauthenticated, 401),
        ("other-model", 0, Forbidden, 403),
        ("ann", 1, Forbidden, 403),
        ("urgent", 11, Forbidden, 403),
        ("urgent", 10, None, 200),
    ]
    for name, priority, error, status in cases:
        assert (await keyed.post(name, priority=priority)).status == status
        async with keyed.client(name) as client:
            asking = client.generate("Once", GREEDY, options=RequestOptions(priority=priority))
            if error is None:
                await asking
            else:
                with pytest.raises(error):
                    await asking


async def refused(keyed: Keyed, name: str) -> float:
    """Both APIs refuse one more request for now; after so many seconds it may come again."""
    response = await keyed.post(name)
    assert (response.status, (await error_of(response))["code"]) == (429, "rate_limit_exceeded")
    assert int(response.headers["Retry-After"]) >= 1
    async with keyed.client(name) as client:
        with pytest.raises(Overloaded, match=f"key of {name}") as raised:
            await client.generate("Once", GREEDY)
    return raised.value.retry_after


async def test_adapters(keyed: Keyed, tmp_path: Path) -> None:
    """Operators load them; a key that names models must name them, too."""
    path = str(write_adapter(tmp_path / "tuned", DEMO_MODEL, target_modules=["q_proj"]))
    async with keyed.client("ann") as ann, keyed.client("operator") as operator, keyed.client("base-only") as base:
        with pytest.raises(Forbidden, match="adapters may be loaded and unloaded with the key of an operator only"):
            await ann.load_adapter("tuned", path)
        await operator.load_adapter("tuned", path)
        named = RequestOptions(adapter="tuned")
        await ann.generate("Once", GREEDY, options=named)
        await base.generate("Once", GREEDY)
        with pytest.raises(Forbidden, match="adapter: 'tuned' may not be used with the key of base-only"):
            await base.generate("Once", GREEDY, options=named)
        assert (await keyed.post("base-only", model="tuned")).status == 403
        with pytest.raises(Forbidden, match="key of an operator only"):
            await ann.unload_adapter("tuned")
        await operator.unload_adapter("tuned")
        assert (await keyed.post("ann", model="tuned")).status == 404


async def test_requests_at_once(keyed: Keyed) -> None:
    async with keyed.client("one-at-once") as client:
        running = client.generate_stream("Once", LONG)
        await anext(running)
        assert await refused(keyed, "one-at-once") == 1
        await running.aclose()
        while (await keyed.post("one-at-once")).status != 200:
            await asyncio.sleep(0.01)
    text = await (await keyed.ask("GET", "/metrics", bearer("operator"))).text()
    assert 'code="RESOURCE_EXHAUSTED",reason="limit_reached"' in text
    assert 'reason="overloaded"' not in text
    never = await keyed.post("one-at-once", n=2)
    assert (never.status, (await error_of(never))["code"]) == (403, "permission_denied")


async def test_requests_and_tokens_a_minute(keyed: Keyed) -> None:
    assert (await keyed.post("one-a-minute")).status == 200
    assert 0 < await refused(keyed, "one-a-minute") <= 60
    # The answer is counted when it ends.
    assert (await keyed.post("few-tokens", max_tokens=30, ignore_eos=True)).status == 200
    assert await refused(keyed, "few-tokens") > 60


async def stream(client: AsyncClient, name: str) -> Completion:
    return join([piece async for piece in client.generate_stream("Once", LONG, request_id=name)])


async def test_a_request_is_its_tenants_alone(keyed: Keyed) -> None:
    async with keyed.client("ann") as ann, keyed.client("bob") as bob:
        anns, bobs = (client.generate_stream("Once", LONG, request_id="same") for client in (ann, bob))
        await anext(anns)
        assert not await bob.abort("same")
        await anext(bobs)
        assert await bob.abort("same")
        assert [piece async for piece in bobs][-1].finish_reason is FinishReason.ABORTED
        assert not await bob.abort("same")
        assert [piece async for piece in anns][-1].finish_reason is FinishReason.LENGTH


async def test_workers_know_whose_a_request_is(keyed: Keyed) -> None:
    credentials = [Credentials(token=new_key(name)) for name in ("ann", "bob")]
    async with AsyncClient(keyed.workers, timeout=SECONDS, credentials=credentials[0]) as ann:
        running = ann.generate_stream("Once", LONG, request_id="theirs")
        await anext(running)
        # Other connections, which are as good as certain to be spread over both.
        for found, each in ((False, credentials[1]), (True, credentials[0])):
            for _ in range(8):
                async with AsyncClient(keyed.workers, timeout=SECONDS, credentials=each) as client:
                    if await client.abort("theirs") != found:
                        pytest.fail(f"abort: {not found}")
                if found:
                    break
        assert [piece async for piece in running][-1].finish_reason is FinishReason.ABORTED
    async with grpc.aio.insecure_channel(keyed.workers) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.GetMetrics(worker_pb2.GetMetricsRequest(), timeout=SECONDS)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{keyed.workers_http}/metrics", headers=bearer("operator")) as response,
    ):
        text = await response.text()
    assert 'worker="0"' in text
    assert 'worker="1"' in text


# No other prompt begins with its first token, which alone would be found, too.
ITS_OWN = list(range(1201, 1241))


async def cached(keyed: Keyed, name: str, salt: str = "") -> list[int]:
    """Tokens found in the cache, over gRPC and over HTTP."""
    async with keyed.client(name) as client:
        answer = await client.generate(ITS_OWN, GREEDY, options=RequestOptions(cache=CacheParams(salt)))
    assert answer.usage is not None
    fields = {"cache_salt": salt} if salt else {}
    usage = (await (await keyed.post(name, prompt=ITS_OWN, **fields)).json())["usage"]
    return [answer.usage.cached_tokens, usage["prompt_tokens_details"]["cached_tokens"]]


async def test_what_is_cached_for_one_is_not_for_another(keyed: Keyed) -> None:
    for name, salt in (("ann", ""), ("bob", ""), ("bob", "salt"), ("ann", "salt"), ("one-share", "")):
        first, second = await cached(keyed, name, salt)
        assert first == 0
        assert second > 0
    for name, salt in (("two-share", ""), ("bob", ""), ("ann", "salt")):
        assert min(await cached(keyed, name, salt)) > 0


async def test_choices_and_searches_are_counted_and_given_back(keyed: Keyed) -> None:
    keyed.keys.tables["many"]["max_concurrent_requests"] = 4
    keyed.keys.write()
    for _ in range(3):
        assert len((await (await keyed.post("many", n=4)).json())["choices"]) == 4
        assert (await keyed.post("many", n=2, use_beam_search=True)).status == 200
        assert (await keyed.post("many", n=5)).status == 403
        assert (await keyed.post("many", prompt=["Once", "x" * 100_000])).status == 400
        assert (
            await keyed.post("many", path="/v1/embeddings", prompt=None, max_tokens=None, input="Once")
        ).status == 200


def test_bench(keyed: Keyed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (f"grpc://{keyed.grpc}", f"http://{keyed.http}"):
        command = ["bench", "serve", f"--target={target}", "--num-requests=2", "--output-tokens=2", "--no-progress"]
        for name, code in (("ann", 0), ("nobody", 1)):
            monkeypatch.setenv("QUIRE_BENCH_API_KEY", new_key(name))
            assert main(command) == code
            printed = capsys.readouterr()
            assert new_key(name) not in printed.out + printed.err


def test_no_key_is_logged(keyed: Keyed) -> None:
    """Last: the log has all that these tests have asked for."""
    text = keyed.log.read_text()
    assert "key of one-at-once" in text
    assert text.count("--api-keys") >= 2
    for name in NAMES:
        assert new_key(name) not in text
        assert key_hash(new_key(name)) not in text
