"""The committed compose.yaml, with real containers: it answers, takes more executors, and goes."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
URL = "http://127.0.0.1:8000"

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which(COMPOSE[0]) is None, reason="needs docker-compose or docker compose"),
]


def compose(*arguments: str) -> str:
    done = subprocess.run([*COMPOSE, "-p", "quire-test", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def complete(prompt: str) -> dict[str, Any]:
    body = json.dumps({"prompt": prompt, "max_tokens": 24, "temperature": 0}).encode()
    request = urllib.request.Request(f"{URL}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def num_executors() -> int:
    arguments = ("exec", "-T", "scheduler", "quire", "stats", "--json")
    return len(json.loads(compose(*arguments))["executors"])


def until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.5)


def is_healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    compose("build")
    try:
        compose("up", "-d")
        until(is_healthy, 120)
        yield
    finally:
        compose("down", "-v", "--remove-orphans")


def test_it_answers(running: None) -> None:
    first, second = complete("def fibonacci(n):"), complete("def fibonacci(n):")
    assert first["choices"][0]["text"] == second["choices"][0]["text"] != ""
    assert first["usage"]["completion_tokens"] == 24


def test_executors_come_and_go(running: None) -> None:
    wanted = complete("class Stack:")["choices"][0]["text"]
    compose("up", "-d", "--scale", "executor=2", "executor")
    until(lambda: num_executors() == 2, 60)
    compose("up", "-d", "--scale", "executor=1", "executor")
    until(lambda: num_executors() == 1, 60)
    assert complete("class Stack:")["choices"][0]["text"] == wanted


def test_the_ledger_is_sound(running: None) -> None:
    assert "OK" in compose("exec", "-T", "scheduler", "quire", "ledger", "audit", "--redis", "redis://redis:6379/0")
