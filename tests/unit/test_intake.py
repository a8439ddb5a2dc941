"""`Intake`: others have the loop between two pieces of work, and what is held is bounded."""

import asyncio

import pytest

from quire.engine.api.errors import Overloaded
from quire.services.common.intake import Intake


async def test_others_have_their_turn_between_two_pieces() -> None:
    intake, seen, done = Intake(), list[str](), asyncio.Event()

    async def other() -> None:
        while not done.is_set():
            seen.append("other")
            await asyncio.sleep(0)

    async def work(number: int) -> None:
        await intake.run(lambda: seen.append(str(number)))

    others = asyncio.create_task(other())
    await asyncio.gather(*(work(number) for number in range(3)))
    done.set()
    await others
    order = [name for name in seen if name != "other"]
    assert order == ["0", "1", "2"]
    assert all("other" in seen[seen.index(first) : seen.index(then)] for first, then in (("0", "1"), ("1", "2")))


async def test_work_whose_caller_has_left_is_not_done() -> None:
    intake, seen = Intake(), list[int]()
    first, second = (asyncio.create_task(intake.run(lambda: seen.append(1))) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait((first, second))
    assert seen == [1]


async def test_an_error_ends_its_own_turn() -> None:
    intake = Intake()
    with pytest.raises(ZeroDivisionError):
        await intake.run(lambda: 1 // 0)
    assert await intake.run(lambda: 1) == 1


def test_what_is_held_is_bounded() -> None:
    intake = Intake(max_held_bytes=100)
    with intake.hold() as first:
        # One by itself may have more.
        first(90)
        first(20)
        with intake.hold() as second, pytest.raises(Overloaded, match="large requests of 110 bytes"):
            second(1)
    with intake.hold() as third:
        third(60)
