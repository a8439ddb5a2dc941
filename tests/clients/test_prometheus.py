"""The dashboard, the alerts and the configuration of deploy/, in a real Prometheus that watches running services."""

import asyncio
import json
import math
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.up.ports import LOOPBACK, free_port
from support.stacks import RunningStack, launch

pytestmark = pytest.mark.clients

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/quire.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
# Quire's metrics, by the beginning of their names.
NAME = re.compile(r"\bquire_\w+")
RATE_INTERVAL = "20s"
GREEDY = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}; Debian: apt-get install prometheus")
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://{LOOPBACK}:{port}"

    def ask(self, path: str, **query: str) -> Any:
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(query)}", timeout=60) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """Of all series that an expression gives now, where they are numbers."""
        found = self.ask("query", query=expression)["result"]
        return [value for each in found if not math.isnan(value := float(each["value"][1]))]


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    policy = {"capacity_policy": "MAX_UTILIZATION", "max_waiting_requests": 8}
    with launch(DEMO_MODEL, executor={"num_blocks": 24}, scheduler=policy, metrics_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With deploy/'s configuration, but for addresses and pace."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    places = dict(zip(("quire-frontend", "quire-scheduler", "quire-executor"), addresses(stack), strict=True))
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [places[job["job_name"]]]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus/alerts.yaml", folder)
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    ]
    process = subprocess.Popen(command)
    try:
        yield Prometheus(port)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def addresses(stack: RunningStack) -> list[str]:
    return [stack.http, *stack.stack.metrics]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*")
            yield f"{panel['title']}: {target['legendFormat']}", expression


async def load(stack: RunningStack) -> None:
    """More than fits: some are refused, some pause."""

    async def one(client: AsyncClient, number: int) -> None:
        with suppress(QuireError):
            await client.generate([number % 7 + 5, *range(20, 50)], GREEDY)

    async with AsyncClient(stack.frontend) as client:
        await asyncio.gather(*(one(client, number) for number in range(40)))
    with suppress(URLError):
        await asyncio.to_thread(urlopen, f"http://{stack.http}/v1/models")


def test_promtool_finds_nothing_wrong() -> None:
    for check in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        found = subprocess.run(
            (tool("promtool"), "check", *check), cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr


def test_every_panel_shows_something(stack: RunningStack, prometheus: Prometheus) -> None:
    asyncio.run(load(stack))
    stack.signal("executor", signal.SIGKILL)
    stack.start("executor")
    stack.until_serving()
    empty, deadline = dict(expressions()), time.monotonic() + 120
    assert len(empty) == sum(len(panel["targets"]) for panel in PANELS), "two targets have one name"
    while empty and time.monotonic() < deadline:
        asyncio.run(load(stack))
        empty = {name: expression for name, expression in empty.items() if not prometheus.values(expression)}
    assert empty == {}


def test_every_alert_is_evaluated_and_asks_for_what_there_is(stack: RunningStack, prometheus: Prometheus) -> None:
    asyncio.run(load(stack))
    names = set(prometheus.ask("label/__name__/values"))
    for alert in ALERTS:
        prometheus.ask("query", query=alert["expr"])
        assert set(NAME.findall(alert["expr"])) <= names, alert["alert"]
    deadline = time.monotonic() + 120
    while True:
        rules = prometheus.ask("rules")["groups"][0]["rules"]
        if all(rule["health"] == "ok" for rule in rules) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert [(rule["name"], rule["health"]) for rule in rules] == [(alert["alert"], "ok") for alert in ALERTS]


def test_an_alert_fires_when_nothing_is_served(stack: RunningStack, prometheus: Prometheus) -> None:
    (alert,) = (each for each in ALERTS if each["alert"] == "QuireServesNothing")
    assert prometheus.values(alert["expr"]) == []
    stack.signal("executor", signal.SIGKILL)
    deadline = time.monotonic() + 120
    while not prometheus.values(alert["expr"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert prometheus.values(alert["expr"]) == [0]
    stack.start("executor")
    stack.until_serving()
