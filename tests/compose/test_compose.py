"""The committed compose.yaml, with real containers: it answers, survives what is killed, grows, shrinks, and goes."""

import http.client
import json
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quire.clients.client import Client
from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.services.up.ports import LOOPBACK, free_ports
from support.containers import COMPOSE, Project, inside, processes, run, until
from support.documents import commands

ROOT = Path(__file__).parents[2]
PASSWORD = "correct-horse-battery"
PROMPTS = [f"def function_{i}(values):" for i in range(8)]
NUM_TOKENS = 1500
MAX_RETRIES = 20

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(shutil.which(COMPOSE[0]) is None, reason="needs docker-compose or docker compose"),
]


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """Running, with two executors; gone without a trace at the end."""
    names = ("HTTP", "GRPC", "PROMETHEUS", "GRAFANA")
    ports = {f"QUIRE_{name}_PORT": str(port) for name, port in zip(names, free_ports(), strict=False)}
    files = ("compose.yaml", "tests/compose/compose.test.yaml")
    project = Project("quire-test", ROOT, files, {**ports, "QUIRE_REDIS_PASSWORD": PASSWORD})
    project.compose("build")
    try:
        project.compose("up", "-d", "--scale", "executor=2")
        until(lambda: num_executors(project) == 2)
        until(lambda: is_healthy(project))
        yield project
    finally:
        project.compose("--profile", "metrics", "down", "-v", "--remove-orphans")
    assert project.left() == []


def url(project: Project, path: str) -> str:
    return f"http://{LOOPBACK}:{project.variables['QUIRE_HTTP_PORT']}{path}"


def is_healthy(project: Project) -> bool:
    try:
        with urllib.request.urlopen(url(project, "/health"), timeout=60) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def leader(project: Project) -> dict[str, Any] | None:
    """The container of the scheduler that serves."""
    schedulers = project.containers("scheduler")
    serving = (each for each in schedulers if inside(each, "quire", "health", "127.0.0.1:8002").returncode == 0)
    return next(serving, None)


def num_executors(project: Project) -> int:
    if (leads := leader(project)) is None:
        return 0
    return len(json.loads(inside(leads, "quire", "stats", "--json").stdout)["executors"])


def streamed(project: Project, prompt: str, started: threading.Event | None = None) -> str:
    """An answer over HTTP, piece by piece; the event says that its first piece is here."""
    fields = {"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(url(project, "/v1/completions"), json.dumps(fields).encode())
    text = ""
    with urllib.request.urlopen(request, timeout=300) as response:
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                event = json.loads(line[6:])
                if "error" in event:
                    raise Unavailable(event["error"]["message"])
                text += "".join(choice["text"] for choice in event["choices"])
                if started is not None:
                    started.set()
    return text


@pytest.fixture(scope="module")
def texts(project: Project) -> list[str]:
    """The answers when nothing fails."""
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: streamed(project, prompt), PROMPTS))


def texts_while(project: Project, fault: Any) -> list[str]:
    """The answers while `fault` is called: when all of them have begun, and before any has ended."""
    started = [threading.Event() for _ in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = [pool.submit(streamed, project, *each) for each in zip(PROMPTS, started, strict=True)]
        for event in started:
            assert event.wait(120)
        fault()
        assert not any(answer.done() for answer in answers), "the fault came too late to be one"
        return [answer.result() for answer in answers]


def kill(container: dict[str, Any]) -> None:
    run("docker", "kill", container["Id"])


def test_sizes_of_the_images(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    base = json.loads(run("docker", "image", "inspect", "python:3.11-slim-bookworm"))[0]["Size"]
    with capsys.disabled():
        for name in ("quire-frontend", "quire-scheduler", "quire-executor-cpu"):
            size = json.loads(run("docker", "image", "inspect", name))[0]["Size"]
            print(f"\n{name}: {size / 1e6:,.0f} MB, of these {base / 1e6:,.0f} MB of python:3.11-slim-bookworm", end="")


def test_the_kernels_are_those_in_cpp(project: Project) -> None:
    for executor in project.containers("executor"):
        assert "computing with C++ kernels for " in run("sh", "-c", f"docker logs {executor['Id']} 2>&1")
        assert inside(executor, "sh", "-c", "command -v g++ c++ cc").stdout == ""


def test_http_and_grpc_answer_on_one_port_each(project: Project, texts: list[str]) -> None:
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    with Client(f"{LOOPBACK}:{project.variables['QUIRE_GRPC_PORT']}") as client:
        assert [client.generate(prompt, params).text for prompt in PROMPTS[:2]] == texts[:2]


def test_nothing_runs_as_root_or_writes_to_its_image(project: Project) -> None:
    containers = project.containers()
    services = {each["Config"]["Labels"]["com.docker.compose.service"] for each in containers}
    assert services >= {"redis", "scheduler", "executor", "frontend", "proxy"}
    for container in containers:
        users, commands = zip(*processes(container), strict=True)
        assert 0 not in users, container["Name"]
        assert PASSWORD not in "".join(commands), container["Name"]
        assert container["HostConfig"]["ReadonlyRootfs"], container["Name"]
        assert container["HostConfig"]["CapDrop"] == ["ALL"], container["Name"]


def test_a_client_without_the_password_is_refused(project: Project) -> None:
    (redis,) = project.containers("redis")
    assert "NOAUTH" in inside(redis, "env", "-u", "REDISCLI_AUTH", "redis-cli", "dbsize").stdout


def test_containers_say_whether_they_are_well(project: Project) -> None:
    for service in ("redis", "scheduler", "executor", "frontend"):
        until(lambda service=service: all(is_well(each) for each in project.containers(service)))


def is_well(container: dict[str, Any]) -> bool:
    return bool(container["State"]["Health"]["Status"] == "healthy")


def test_an_executor_is_killed_in_mid_stream(project: Project, texts: list[str]) -> None:
    victim = project.containers("executor")[0]
    assert texts_while(project, lambda: kill(victim)) == texts
    run("docker", "start", victim["Id"])
    until(lambda: num_executors(project) == 2)


def test_the_scheduler_is_killed_in_mid_stream(project: Project, texts: list[str]) -> None:
    victim = leader(project)
    assert victim is not None
    assert texts_while(project, lambda: kill(victim)) == texts
    run("docker", "start", victim["Id"])
    until(lambda: num_executors(project) == 2)


def test_a_frontend_is_killed_and_the_others_answer(project: Project, texts: list[str]) -> None:
    victim = project.containers("frontend")[0]
    kill(victim)
    assert [streamed(project, prompt) for prompt in PROMPTS[:2]] == texts[:2]
    run("docker", "start", victim["Id"])


@pytest.mark.skipif(COMPOSE[0] != "docker", reason="the documented steps are those of Compose 2")
def test_the_documented_rolling_restart_fails_no_request(project: Project, texts: list[str]) -> None:
    before = {each["Id"] for service in ("scheduler", "executor", "frontend") for each in project.containers(service)}
    steps, over, num_answers = commands("operations.md", "### With Compose"), threading.Event(), 0

    def ask_on(index: int) -> int:
        count = 0
        while not over.is_set() or not count:
            assert retried(project, PROMPTS[index]) == texts[index]
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask_on, index) for index in range(2)]
        try:
            project.script(steps)
        finally:
            over.set()
        num_answers = sum(each.result() for each in asking)
    after = {each["Id"] for service in ("scheduler", "executor", "frontend") for each in project.containers(service)}
    assert len(after) == len(before)
    assert not before & after
    assert num_answers >= len(asking)


def retried(project: Project, prompt: str) -> str:
    """An answer, asked for again as the documents say if its frontend stops."""
    for _ in range(MAX_RETRIES):
        try:
            return streamed(project, prompt)
        except (OSError, http.client.HTTPException, Unavailable):
            time.sleep(0.5)
    raise AssertionError(f"no answer after {MAX_RETRIES} retries")


def test_executors_come_and_go(project: Project, texts: list[str]) -> None:
    project.compose("up", "-d", "--no-recreate", "--scale", "executor=3")
    until(lambda: num_executors(project) == 3)
    project.compose("up", "-d", "--no-recreate", "--scale", "executor=1")
    until(lambda: num_executors(project) == 1)
    assert streamed(project, PROMPTS[0]) == texts[0]


def test_prometheus_reads_every_service(project: Project) -> None:
    project.compose("up", "-d", "--no-recreate", "prometheus")
    wanted = {f"quire-{service}": len(project.containers(service)) for service in ("frontend", "scheduler", "executor")}
    until(lambda: healthy_targets(project) == wanted)


def healthy_targets(project: Project) -> dict[str, int]:
    """How many targets of each job Prometheus reads."""
    address = f"http://{LOOPBACK}:{project.variables['QUIRE_PROMETHEUS_PORT']}/api/v1/targets"
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            targets = json.load(response)["data"]["activeTargets"]
    except OSError:
        return {}
    return dict(Counter(each["labels"]["job"] for each in targets if each["health"] == "up"))


def test_the_ledger_is_sound(project: Project) -> None:
    leads = leader(project)
    assert leads is not None
    audit = inside(leads, "sh", "-c", 'quire ledger audit --redis "$QUIRE_SCHEDULER_REDIS"')
    assert (audit.returncode, "OK" in audit.stdout) == (0, True), audit.stderr
