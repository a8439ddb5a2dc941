"""The services' own timeline: one message each way per step, books before plans, and two steps in flight."""

import asyncio
import json
from typing import Any

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from support.stacks import launch

PARAMS = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trace")

    async def load(address: str) -> None:
        async with AsyncClient(address) as client:
            await asyncio.gather(*(client.generate([5 + i, 6, 7], PARAMS) for i in range(6)))

    with launch(DEMO_MODEL, executor={"num_blocks": 96}, trace_dir=folder) as running:
        asyncio.run(load(running.frontend))
    files = sorted(folder.glob("*.json"))
    assert [file.name.split("-")[0] for file in files] == ["executor", "scheduler"]
    return [event for file in files for event in json.loads(file.read_text() + "]")]


def ends(events: list[dict[str, Any]], name: str) -> dict[int, tuple[float, float]]:
    spans = [event for event in events if event["name"] == name]
    found = {event["args"]["step"]: (event["ts"], event["ts"] + event["dur"]) for event in spans}
    assert name in ("schedule", "commit") or len(found) == len(spans), f"two {name} spans of one step"
    return found


def test_every_step_is_one_plan_and_one_result(events: list[dict[str, Any]]) -> None:
    executed, sent, updated = (ends(events, name) for name in ("execute", "send", "update"))
    assert executed.keys() == sent.keys() == updated.keys()
    # Six sequences of 120 tokens, of which the second may come when the first is over.
    assert 120 <= len(executed) <= 6 * 120


def test_no_plan_leaves_before_the_ledger_has_it(events: list[dict[str, Any]]) -> None:
    committed, sent, executed = (ends(events, name) for name in ("commit", "send", "execute"))
    for step, (began, _) in sent.items():
        assert committed[step][1] <= began <= executed[step][0]


def test_the_next_plan_leaves_before_a_result_is_taken_in(events: list[dict[str, Any]]) -> None:
    """Two steps are in flight. Whether it also comes before a step of this tiny model is over is up to the machine."""
    updated, sent = ends(events, "update"), ends(events, "send")
    early = [sent[step][1] <= updated[step - 1][0] for step in sent if step - 1 in updated]
    assert sum(early) > 0.9 * len(early)
