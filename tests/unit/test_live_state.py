"""What browsers are told: everything to who comes, and nothing twice to who stays."""

from typing import Any

import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import BlockKind, block_state, pack_all, pack_runs
from quire.services.frontend.ui.live_state import MAX_POINTS, LiveState

HELD = block_state(3, BlockKind.HELD)


def snapshot(runs: bytes = b"", is_whole: bool = False, events: int = 0, epoch: int = 1) -> pb.Snapshot:
    """One executor of four blocks, and so many events of the epoch."""
    statistics = pb.ExecutorStatistics(name="a:1", num_blocks=4)
    return pb.Snapshot(
        epoch=epoch,
        executors=[pb.ExecutorSnapshot(statistics=statistics, block_runs=runs, is_whole=is_whole)],
        events=[
            pb.ServiceEvent(number=n, text=f"{epoch}.{n}", level=pb.EVENT_LEVEL_CHANGE) for n in range(1, events + 1)
        ],
        figures=pb.StepFigures(interval_ms=500, num_generated=10),
    )


def texts(update: dict[str, Any]) -> list[str]:
    return [event["text"] for event in update["events"]]


def test_an_event_is_told_once() -> None:
    state = LiveState("s:1")
    assert texts(state.take(snapshot(events=2))) == ["1.1", "1.2"]
    assert texts(state.take(snapshot(events=3))) == ["1.3"]
    assert texts(state.take(snapshot(events=1, epoch=2))) == ["2.1"]
    assert texts(state.whole()) == ["1.1", "1.2", "1.3", "2.1"]


def test_a_loss_and_the_return_are_events_of_the_frontend() -> None:
    state = LiveState("s:1")
    state.take(snapshot())
    lost = state.lose("it died")
    assert lost is not None
    assert (texts(lost), lost["executors"]) == (["scheduler s:1 is gone: it died"], None)
    assert state.lose("it is still away") is None
    assert state.whole()["scheduler"]["up"] is False
    back = texts(state.take(snapshot(events=1, epoch=2)))
    assert back[0].startswith("scheduler s:1 is back after ")
    assert back[1:] == ["2.1"]
    assert state.whole()["scheduler"] == {"address": "s:1", "up": True, "epoch": 2}


def test_who_comes_later_has_the_map_that_others_have() -> None:
    state = LiveState("s:1")
    states = np.zeros(4, np.int32)
    state.take(snapshot(pack_all(states), is_whole=True))
    state.take(snapshot(pack_runs(np.array([1, 2], np.int32), np.array([HELD, HELD], np.int32))))
    (executor,) = state.whole()["executors"]
    states[1:3] = HELD
    other = LiveState("s:1")
    other.take(snapshot(pack_all(states), is_whole=True))
    assert executor == other.whole()["executors"][0]
    assert executor["whole"]


def test_curves_are_per_second_and_bounded() -> None:
    state = LiveState("s:1")
    (point,) = state.take(snapshot())["points"]
    assert (point["generated"], point["ttft"]) == (20.0, None)
    for _ in range(MAX_POINTS):
        state.take(snapshot())
    assert len(state.whole()["points"]) == MAX_POINTS


def test_runs_of_no_block_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="block_runs"):
        LiveState("s:1").take(snapshot(pack_all(np.zeros(5, np.int32)), is_whole=True))
