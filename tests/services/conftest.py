"""Stacks for several modules. Every module that uses one leaves it with sound books and nothing held."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.engine.demo_model import DEMO_MODEL
from support.models import write_model
from support.stacks import RunningStack, launch

# Less than the demo model's context, so that a request can be too long for the pool alone.
NUM_BLOCKS = 96
MAX_WAITING = 40


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[RunningStack]:
    executor = {"num_blocks": NUM_BLOCKS}
    with launch(DEMO_MODEL, executor=executor, scheduler={"max_waiting_requests": MAX_WAITING}) as running:
        yield running


@pytest.fixture(scope="module")
def stack(shared_stack: RunningStack) -> Iterator[RunningStack]:
    """One stack with the demo model for every module that breaks nothing."""
    yield shared_stack
    asyncio.run(shared_stack.assert_settled())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return write_model(tmp_path_factory.mktemp("llama"), "llama")
