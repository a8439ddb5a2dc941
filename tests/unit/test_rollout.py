"""What a rolling restart refuses before it replaces anything, and which settings it gives to what it starts."""

import pytest

from quire.services.up.programs import Programs
from quire.services.up.rollout import Rollout, RolloutError
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack


async def first_step(settings: UpSettings, *, allows_pause: bool = False) -> str:
    """What is said of the first service; nothing runs."""
    return await anext(Rollout(Stack(settings), {}, 1.0, allows_pause).run())


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        (UpSettings(), "scheduler (--standby) and one executor (--num-executors 2)"),
        (UpSettings(standby=True), "executor (--num-executors 2)"),
        (UpSettings(num_executors=2), "scheduler (--standby)"),
    ],
)
async def test_what_has_no_other_to_do_its_work_is_named(settings: UpSettings, alone: str) -> None:
    with pytest.raises(RolloutError) as caught:
        await first_step(settings)
    assert str(caught.value).startswith(f"there is only one {alone}: requests would fail while it starts")


async def test_settings_that_are_not_named_stay() -> None:
    stack = Stack(UpSettings(executor={"num_blocks": 64, "dtype": "float32"}, frontend_port=0))  # type: ignore[arg-type]
    rollout = Rollout(stack, {"executor": {"num_blocks": 96}, "drain_seconds": 7}, 1.0, False)
    line = rollout.programs.of("executor").command
    assert {"--num-blocks=96", "--dtype=float32", "--drain-seconds=7.0"} <= set(line)
    before = Programs(stack.settings, stack.places).of("executor").command
    assert "--num-blocks=64" in before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standby": True}, "standby: must stay False as long as the stack runs, got True; nothing was replaced"),
        ({"frontend_port": 1}, "frontend_port: must stay 8001 as long as the stack runs, got 1; nothing was replaced"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_what_a_running_stack_cannot_change(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        Rollout(Stack(UpSettings()), changes, 1.0, False)


def test_the_same_places_may_be_named_again() -> None:
    """As a file of settings does, which is given to both commands."""
    Rollout(Stack(UpSettings(num_executors=2, standby=True)), {"num_executors": 2, "standby": True}, 1.0, False)
