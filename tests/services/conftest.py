"""Stacks for several modules. Every module that uses one leaves it with sound books and nothing held."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.engine.demo_model import DEMO_MODEL
from support.models import write_model
from support.otlp_receiver import OtlpReceiver, otlp_receiver
from support.redis_server import guarded_redis
from support.secured_stack import REDIS_PASSWORD, Secured, secured_stack
from support.stacks import RunningStack, launch

# Less than the demo model's context, so that a request can be too long for the pool alone.
NUM_BLOCKS = 96
# Of them 30 without a key, once another test has brought one.
MAX_WAITING = 40
# Nobody else is to lead: a service that a busy machine keeps waiting for a second must not say that it cannot serve.
LEASE_SECONDS = "10"


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[RunningStack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUIRE_SCHEDULER_LEASE_SECONDS", LEASE_SECONDS)
        executor, scheduler = {"num_blocks": NUM_BLOCKS}, {"max_waiting_requests": MAX_WAITING}
        with launch(DEMO_MODEL, executor=executor, scheduler=scheduler) as running:
            patch.undo()
            yield running


@pytest.fixture(scope="module")
def stack(shared_stack: RunningStack) -> Iterator[RunningStack]:
    """One stack with the demo model for every module that breaks nothing."""
    yield shared_stack
    asyncio.run(shared_stack.assert_settled())


@pytest.fixture(scope="session")
def collector() -> Iterator[OtlpReceiver]:
    """What services are told to send spans to."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver) -> Iterator[Secured]:
    """Services that let in nobody but each other and clients with a key; who uses them leaves them as they are."""
    folder = tmp_path_factory.mktemp("secured")
    with guarded_redis(folder, quire=REDIS_PASSWORD, audit="") as redis, asyncio.Runner() as runner:
        context = secured_stack(folder, redis.address, collector.url)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return write_model(tmp_path_factory.mktemp("llama"), "llama")
