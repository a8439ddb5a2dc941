"""Low-rank adapters through every service: loaded while requests run, over gRPC and HTTP, and after faults."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from transformers import PreTrainedModel

from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import Forbidden, InvalidRequest
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.services.cli import main
from support.adapters import merged, write_adapter
from support.models import load_reference, reference_greedy, write_model
from support.stacks import RunningStack, another_frontend, launch

PROMPT = list(range(5, 60))
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
NUM_ADAPTERS = 4
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Case:
    """A stack, adapters for its model by name, and the tokens that each makes of `PROMPT`; those of "" are without."""

    stack: RunningStack
    paths: dict[str, str]
    wanted: dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    home = tmp_path_factory.mktemp("adapters")
    model = write_model(home / MODEL, "llama")
    paths = {f"a{seed}": str(write_adapter(home / f"a{seed}", model, seed=seed)) for seed in range(NUM_ADAPTERS)}
    wanted = {name: greedy(merged(model, Path(path))) for name, path in paths.items()}
    wanted[""] = greedy(load_reference(model))
    with launch(
        model,
        executor={"num_blocks": 400, "max_adapters": 2},
        num_executors=2,
        standby=True,
        adapter_updates=True,
        adapters=(f"a0={paths['a0']}",),
    ) as running:
        yield Case(running, paths, wanted)


def greedy(model: PreTrainedModel) -> tuple[int, ...]:
    return tuple(reference_greedy(model, PROMPT, 24, ignore_eos=True))


async def until_named(client: AsyncClient, names: set[str]) -> None:
    async with asyncio.timeout(60):
        while {adapter.name for adapter in await client.adapters()} != names:
            await asyncio.sleep(0.05)


async def load_all(client: AsyncClient, case: Case) -> None:
    await until_named(client, {"a0"})
    for name, path in case.paths.items():
        assert (await client.load_adapter(name, path)).path == path


async def unload_all(client: AsyncClient) -> None:
    for adapter in await client.adapters():
        if adapter.name != "a0":
            await client.unload_adapter(adapter.name)


async def ask(client: AsyncClient, name: str) -> tuple[str, tuple[int, ...]]:
    return name, (await client.generate(PROMPT, GREEDY, options=RequestOptions(adapter=name))).token_ids


async def test_adapters_beside_each_other(case: Case) -> None:
    async with AsyncClient(case.stack.frontend) as client:
        await load_all(client, case)
        found = await asyncio.gather(*(ask(client, name) for name in [*case.wanted] * 6))
        assert {*found} == {*case.wanted.items()}
        await unload_all(client)


async def test_they_outlive_schedulers_and_executors(case: Case) -> None:
    """A standby knows them; what waits or runs goes on with its own."""
    async with AsyncClient(case.stack.frontend) as client:
        await load_all(client, case)
        for victim in ("executor0", "scheduler"):
            asked = [asyncio.create_task(ask(client, name)) for name in [*case.wanted] * 6]
            await asyncio.sleep(0.1)
            await asyncio.to_thread(case.stack.signal, victim, signal.SIGKILL)
            await asyncio.to_thread(case.stack.start, victim)
            assert {*await asyncio.gather(*asked)} == {*case.wanted.items()}
        await until_named(client, set(case.paths))
        assert {*await asyncio.gather(*(ask(client, name) for name in case.wanted))} == {*case.wanted.items()}
        await asyncio.to_thread(case.stack.until_serving)
        await unload_all(client)


async def test_loaded_and_unloaded_while_requests_run(case: Case) -> None:
    async with AsyncClient(case.stack.frontend) as client:
        await until_named(client, {"a0"})
        running = [asyncio.create_task(ask(client, "a0")) for _ in range(40)]
        for _ in range(5):
            for name in ("a1", "a2", "a3"):
                await client.load_adapter(name, case.paths[name])
                stream = client.generate_stream(PROMPT, GREEDY, options=RequestOptions(adapter=name))
                pieces = [await anext(stream)]
                await client.unload_adapter(name)
                with pytest.raises(InvalidRequest, match="adapter: must be one of 'a0'"):
                    await ask(client, name)
                pieces += [piece async for piece in stream]
                assert tuple(token for piece in pieces for token in piece.token_ids) == case.wanted[name]
                assert pieces[-1].finish_reason is FinishReason.LENGTH
        assert {*await asyncio.gather(*running)} == {("a0", case.wanted["a0"])}


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("", "a1", "name: must be 1 to 256 printable characters"),
        ("b", "", "path: must be 1 to 4096 characters"),
        ("b", "/nowhere", "adapter: must be a PEFT folder for this model: /nowhere: adapter_config.json is not there"),
        ("a0", "a1", "name: must not be that of another adapter"),
        (MODEL, "a1", "name: must not be the model's"),
    ],
)
async def test_what_is_not_loaded(case: Case, name: str, path: str, message: str) -> None:
    async with AsyncClient(case.stack.frontend) as client:
        await until_named(client, {"a0"})
        with pytest.raises(InvalidRequest, match=message):
            await client.load_adapter(name, case.paths.get(path, path))
        with pytest.raises(InvalidRequest, match="name: must be"):
            await client.unload_adapter("b")
        assert [adapter.name for adapter in await client.adapters()] == ["a0"]


async def test_replaced(case: Case) -> None:
    async with AsyncClient(case.stack.frontend) as client:
        await until_named(client, {"a0"})
        await client.load_adapter("b", case.paths["a1"])
        await client.load_adapter("b", case.paths["a1"])
        assert (await ask(client, "b"))[1] == case.wanted["a1"]
        await client.load_adapter("b", case.paths["a2"], replace=True)
        assert (await ask(client, "b"))[1] == case.wanted["a2"]
        await unload_all(client)


async def test_a_frontend_that_was_not_told_to(case: Case) -> None:
    model = str(Path(case.paths["a0"]).parent / MODEL)
    schedulers = ",".join(case.stack.stack.schedulers)
    async with another_frontend(case.stack, model=model, scheduler=schedulers) as place, AsyncClient(place) as client:
        await until_named(client, {"a0"})
        assert (await ask(client, "a0"))[1] == case.wanted["a0"]
        with pytest.raises(Forbidden, match="--adapter-updates permits it"):
            await client.load_adapter("b", case.paths["a1"])
        with pytest.raises(Forbidden, match="--adapter-updates permits it"):
            await client.unload_adapter("a0")


def test_the_command(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["generate", "def", "--address", case.stack.frontend, "--max-tokens", "12", "--temperature", "0", "--json"]
    texts = []
    for more in ([], ["--adapter", "a0"]):
        assert main([*line, *more]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] != texts[1]
    assert main([*line, "--adapter", "b"]) == 1
    assert "adapter: must be one of 'a0', got 'b'" in capsys.readouterr().err


def test_the_client_without_asyncio(case: Case) -> None:
    with Client(case.stack.frontend) as client:
        assert [adapter.name for adapter in client.adapters()] == ["a0"]
        loaded = client.load_adapter("b", case.paths["a1"])
        assert client.adapters()[1] == loaded
        assert client.generate(PROMPT, GREEDY, options=RequestOptions(adapter="b")).token_ids == case.wanted["a1"]
        client.unload_adapter("b")
        with pytest.raises(InvalidRequest, match="adapter: must be one of 'a0', got 'b'"):
            client.generate(PROMPT, GREEDY, options=RequestOptions(adapter="b"))


async def test_over_http(case: Case) -> None:
    async with aiohttp.ClientSession(f"http://{case.stack.http}") as session:

        async def post(path: str, status: int = 200, **body: object) -> dict[str, object]:
            async with session.post(path, json=body) as response:
                assert response.status == status, await response.text()
                found: dict[str, object] = await response.json()
                return found

        loaded = await post("/v1/load_lora_adapter", lora_name="tuned", lora_path=case.paths["a1"])
        assert loaded["name"] == "tuned"
        async with session.get("/v1/models") as response:
            cards = {card["id"]: card for card in (await response.json())["data"]}
        assert cards["tuned"]["parent"] == MODEL
        assert cards["tuned"]["root"] == case.paths["a1"]
        fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 24, "ignore_eos": True, "logprobs": 0}
        answer = await post("/v1/completions", model="tuned", **fields)
        plain = await post("/v1/completions", model=MODEL, **fields)
        assert answer["model"] == "tuned"
        assert answer["choices"] != plain["choices"]
        refused = await post("/v1/completions", 404, model="other", **fields)
        assert "'model', the model served here, or one of its adapters, 'a0', 'tuned'" in str(refused)
        assert (await post("/v1/unload_lora_adapter", lora_name="tuned")) == {"name": "tuned"}
        refused = await post("/v1/unload_lora_adapter", 400, lora_name="tuned")
        assert "lora_name: must be one of 'a0', got 'tuned'" in str(refused)
        refused = await post("/v1/load_lora_adapter", 400, lora_name="b", lora_path="/nowhere")
        assert "adapter_config.json is not there" in str(refused)


@pytest.mark.long
async def test_five_hundred_times_under_load(case: Case) -> None:
    """No request is lost, and memory does not grow."""
    sizes: list[int] = []
    executors = [case.stack.child(name).pid for name in ("executor0", "executor1")]
    async with AsyncClient(case.stack.frontend, multiplex=True) as client:
        await until_named(client, {"a0"})
        for turn in range(500):
            name = f"a{1 + turn % 3}"
            await client.load_adapter(name, case.paths[name])
            asked = await asyncio.gather(*(ask(client, each) for each in (name, name, "a0", "")))
            assert all(tokens == case.wanted[each] for each, tokens in asked)
            await client.unload_adapter(name)
            if turn % 50 == 49:
                sizes.append(sum(map(resident, executors)))
    print("MiB of both executors, every 50 times:", [size >> 20 for size in sizes])
    assert sizes[-1] - sizes[1] < 64 << 20


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
