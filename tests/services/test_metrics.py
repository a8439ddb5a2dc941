"""Every metric of the reference is exported by running services, and moves with what it is about."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import aiohttp
import grpc
import pytest
from redis.asyncio import Redis

from quire.clients.async_client import AsyncClient
from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.metrics.metric import Alias, Metric
from quire.services.executor import metrics as executor
from quire.services.frontend import metrics as frontend
from quire.services.frontend import vllm_metrics
from quire.services.scheduler import metrics as scheduler
from support.prompts import random_prompts
from support.scrapes import Scrapes, scrape, total
from support.stacks import RunningStack, launch

# More than the pool holds at once: some wait, some pause, and cached blocks make room.
PROMPTS = random_prompts(16, 60, 2048, seed=4)
GREEDY = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
EVERY = (*frontend.METRICS, *scheduler.METRICS, *executor.METRICS)
MOVING = [metric for metric in EVERY if not metric.is_constant and not metric.needs]


@pytest.fixture(scope="module")
def own_stack() -> Iterator[RunningStack]:
    policy = {"capacity_policy": "MAX_UTILIZATION", "max_waiting_tokens": 200}
    with launch(
        DEMO_MODEL, executor={"num_blocks": 24}, scheduler=policy, metrics_port=0, vllm_metrics=True
    ) as running:
        yield running


async def load(stack: RunningStack) -> None:
    """Requests of all kinds, a refusal and a fault of each kind among them."""
    async with AsyncClient(stack.frontend) as client, aiohttp.ClientSession(f"http://{stack.http}") as http:

        async def stream(prompt: list[int]) -> None:
            # The waiting queue is shorter than all of them.
            with suppress(QuireError):
                async for _ in client.generate_stream(prompt, GREEDY):
                    pass

        async def whole(body: dict[str, object]) -> None:
            async with http.post("/v1/completions", json=body) as response:
                await response.read()

        await asyncio.gather(
            *map(stream, PROMPTS),
            client.beam_search("def", BeamSearchParams(beam_width=2, max_tokens=4)),
            whole({"prompt": "def f(", "max_tokens": 20, "temperature": 0}),
            whole({"prompt": "def f(", "max_tokens": -1}),
            return_exceptions=True,
        )


async def while_running(stack: RunningStack, fault: Callable[[], Awaitable[None]]) -> None:
    """A request lives through a fault."""
    async with AsyncClient(stack.frontend) as client:
        pieces = client.generate_stream(PROMPTS[0], SamplingParams(temperature=0, max_tokens=370, ignore_eos=True))
        await anext(pieces)
        await fault()
        async for _ in pieces:
            pass


def restarting(stack: RunningStack, name: str) -> Callable[[], Awaitable[None]]:
    def restart() -> None:
        stack.signal(name, signal.SIGKILL)
        stack.start(name)

    async def fault() -> None:
        await asyncio.to_thread(restart)

    return fault


async def flush(stack: RunningStack) -> None:
    async with Redis.from_url(stack.stack.redis) as redis:
        await redis.flushall()


async def all_kinds(stack: RunningStack, is_enough: Callable[[], bool]) -> None:
    await while_running(stack, restarting(stack, "executor"))
    await while_running(stack, lambda: flush(stack))
    while not is_enough():
        await load(stack)
        async with grpc.aio.insecure_channel(stack.stack.schedulers[0]) as channel:
            # One frontend more.
            call = scheduler_pb2_grpc.SchedulerServiceStub(channel).Connect()
            await call.write(scheduler_pb2.ConnectRequest(frontend="another"))
            await call.read()
            await asyncio.sleep(0.2)
            call.cancel()
    await while_running(stack, restarting(stack, "scheduler"))


def test_every_metric_of_the_reference_moves(own_stack: RunningStack) -> None:
    scrapes = Scrapes([own_stack.http, *own_stack.stack.metrics])
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.is_set():
            scrapes.take()

    # What the restart of the scheduler moves comes last.
    late = {frontend.RECOVERY, frontend.EXECUTORS, executor.ATTACHED, executor.EPOCH}

    def left() -> list[Metric]:
        return [metric for metric in MOVING if not scrapes.moved(metric)]

    scrapes.take()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with suppress(TimeoutError):  # what is left says why
            asyncio.run(asyncio.wait_for(all_kinds(own_stack, lambda: not set(left()) - late), 200))
    finally:
        has_ended.set()
        watching.join()
    scrapes.take()
    unmoved = [metric.name for metric in left()]
    assert unmoved == []
    assert [metric.name for metric in EVERY if not metric.needs and not scrapes.is_exported(metric)] == []


def test_vllms_names_have_the_same_values(own_stack: RunningStack) -> None:
    samples = scrape(own_stack.http)
    for alias in vllm_metrics.ALIASES:
        for suffix in ("_count", "_sum") if alias.of.bounds else ("",):
            ours: Counter[frozenset[tuple[str, str]]] = Counter()
            for (name, labels), value in samples.items():
                if name == alias.of.name + suffix:
                    ours[frozenset(renamed(alias, label) for label in labels)] += value
            theirs = {
                labels - {("engine", "0")}: value
                for (name, labels), value in samples.items()
                if name == alias.name + suffix
            }
            assert theirs == ours != {}, alias.name
    assert total(samples, "vllm:cache_config_info", block_size="16", num_gpu_blocks="24") == 1
    assert total(samples, "vllm:lora_requests_info", max_lora="8") > 0


def renamed(alias: Alias, label: tuple[str, str]) -> tuple[str, str]:
    name, value = label
    if alias.values is not None and name in alias.of.labels:
        value = alias.values(value)
    return dict(alias.renamed).get(name, name), value


def test_what_services_count_agrees(own_stack: RunningStack) -> None:
    """Once nothing runs: frontend, scheduler and executor have seen the same tokens."""

    async def run() -> None:
        async with AsyncClient(own_stack.frontend) as client:
            await asyncio.gather(*(client.generate(prompt, GREEDY) for prompt in PROMPTS[:4]))

    places = [own_stack.http, *own_stack.stack.metrics]
    own_stack.until_serving()
    before = [scrape(place) for place in places]
    asyncio.run(run())
    asyncio.run(own_stack.assert_settled())
    after = [scrape(place) for place in places]

    def grown(index: int, name: str, **labels: str) -> float:
        return total(after[index], name, **labels) - total(before[index], name, **labels)

    num_tokens = 4 * (GREEDY.max_tokens or 0)
    assert grown(0, "quire_frontend_generation_tokens_total") == num_tokens
    assert grown(1, "quire_scheduler_generation_tokens_total") == num_tokens
    assert grown(0, "quire_frontend_inter_token_latency_seconds_count") == num_tokens - 4
    assert grown(0, "quire_frontend_time_to_first_token_seconds_count") == 4
    assert grown(0, "quire_frontend_requests_total", outcome="length") == 4
    assert grown(1, "quire_scheduler_requests_total", outcome="length") == 4
    assert grown(1, "quire_scheduler_steps_total") == grown(2, "quire_executor_steps_total")
    assert grown(1, "quire_scheduler_context_tokens_total") == grown(2, "quire_executor_tokens_total", phase="context")
