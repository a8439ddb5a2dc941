"""`Pace`: tokens are told of at once where there is time, and several at a time where there is none."""

import asyncio
import time

import numpy as np
import pytest

from quire.engine.api.sampling import SamplingParams
from quire.engine.open_request import OpenRequest
from quire.services.frontend import pace
from quire.services.frontend.pace import REST_SHARE, Pace

# Of making something of a token, where it takes long.
WORK_SECONDS = 0.02
# Far more than a step of the tests takes on a busy machine.
SPARE_SECONDS = 0.5


class Reader:
    """Takes a request's tokens whenever it is told to."""

    def __init__(self, pace: Pace, handle: int, seconds: float = 0.0) -> None:
        params = SamplingParams(seed=0, max_tokens=100)
        self.request = OpenRequest(handle, "", np.array([1], np.int32), params, announce=pace.announce)
        self.request.notify(self._take)
        self._seconds = seconds
        self.taken: list[list[int]] = []
        self.times: list[float] = []

    def _take(self) -> None:
        self.times.append(time.monotonic())
        self.taken.append(self.request.take())
        time.sleep(self._seconds)

    async def until(self, number: int) -> None:
        while len(self.taken) < number:
            await asyncio.sleep(0)


def step(pace: Pace, token_id: int, *readers: Reader) -> None:
    for reader in readers:
        reader.request.push(token_id)
    pace.end_step()


async def test_what_was_taken_before_its_round_is_not_told() -> None:
    told = Pace()
    reader = Reader(told, 1)
    reader.request.push(7)
    assert reader.request.take() == [7]
    told.end_step()
    assert reader.taken == []


async def test_with_time_to_spare_each_step_is_told_at_once() -> None:
    told = Pace()
    reader = Reader(told, 1)
    for token_id in range(3):
        step(told, token_id, reader)
        assert reader.taken[-1] == [token_id]
        await asyncio.sleep(SPARE_SECONDS)


@pytest.fixture
def long_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a busy machine takes for a few lines."""
    monkeypatch.setattr(pace, "MIN_REST_SECONDS", SPARE_SECONDS)


@pytest.mark.usefixtures("long_rest")
async def test_steps_within_a_rest_come_together() -> None:
    told = Pace()
    first, second = Reader(told, 1), Reader(told, 2)
    step(told, 0, first)
    for token_id in (1, 2):
        step(told, token_id, first, second)
    assert (first.taken, second.taken) == ([[0]], [])
    await second.until(1)
    assert (first.taken, second.taken) == ([[0], [1, 2]], [[1, 2]])


async def test_a_long_round_has_a_long_rest() -> None:
    told = Pace()
    reader = Reader(told, 1, WORK_SECONDS)
    step(told, 0, reader)
    await asyncio.sleep(0)
    step(told, 1, reader)
    await reader.until(2)
    assert reader.times[1] - reader.times[0] >= (1 + REST_SHARE) * WORK_SECONDS - 0.001


@pytest.mark.usefixtures("long_rest")
async def test_the_end_waits_for_nobody_and_is_told_once() -> None:
    told = Pace()
    reader, other = Reader(told, 1), Reader(told, 2)
    step(told, 0, reader, other)
    reader.request.push(1)
    other.request.push(1)
    told.forget(reader.request)
    told.end_step()
    await other.until(2)
    assert (reader.taken, other.taken) == ([[0]], [[0], [1]])
