"""`quire up`: its ports are its own, a process that dies starts again, and no password is shown."""

import socket
from collections.abc import Iterator
from itertools import islice

import psutil
import pytest

from quire.clients.client import Client
from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.services.up.ports import LOOPBACK, check_ports, free_ports
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack
from support.redis_server import RedisServer
from support.up_command import SECONDS, up

PASSWORD = "a-secret-word"
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where somebody else listens."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("flag", ["frontend", "http", "scheduler", "executor"])
def test_a_port_in_use_is_named_before_anything_starts(flag: str, taken: int) -> None:
    settings = UpSettings.model_validate({f"{flag}_port": taken})
    stack = Stack(settings)
    message = rf"--{flag}-port {taken}: cannot listen on 127\.0\.0\.1:{taken}: Address already in use"
    with pytest.raises(StartupError, match=message):
        check_ports(settings)
    assert stack.children == []


def test_a_port_that_is_asked_for_twice() -> None:
    first, second = islice(free_ports(), 2)
    settings = UpSettings(frontend_port=first, http_port=second, scheduler_port=first, executor_port=second)
    with pytest.raises(StartupError) as caught:
        check_ports(settings)
    assert str(caught.value) == (
        f"--scheduler-port {first}: --frontend-port has the same port; "
        f"--executor-port {second}: --http-port has the same port"
    )


def test_a_host_of_somebody_else() -> None:
    with pytest.raises(StartupError, match=r"--host 192\.0\.2\.1: cannot listen there: Cannot assign"):
        check_ports(UpSettings(host="192.0.2.1"))


def test_a_process_that_dies_starts_again_and_no_password_is_shown() -> None:
    redis = RedisServer("--requirepass", PASSWORD)
    redis_url = f"redis://:{PASSWORD}@{redis.address}/0"
    redis.start()
    try:
        with up("--host=0.0.0.0", "--log-level=info", QUIRE_UP_REDIS=redis_url) as running:
            frontend = running.until(r"quire generate --address (\S+)")[1]
            assert frontend.startswith(f"{LOOPBACK}:")
            listening = [each for each in running.child("frontend").net_connections() if each.status == "LISTEN"]
            # gRPC takes the IPv4 wildcard for that of IPv6, which includes it.
            assert {each.laddr.ip for each in listening} <= {"0.0.0.0", "::"}
            assert len(listening) == 2
            for name in ("executor", "scheduler", "frontend"):
                child = running.child(name)
                child.kill()
                child.wait()
                running.until(f"quire: {name} was ended by SIGKILL; starting it again in 0.1 s")
                running.until(rf"{name} +\| .* SERVING")
                with Client(frontend, timeout=SECONDS) as client:
                    client.ready(SECONDS)
                    assert len(client.generate("a", GREEDY).token_ids) == 4
            everyone = [psutil.Process(running.process.pid)]
            everyone += everyone[0].children(recursive=True)
            assert len(everyone) == 4
            assert not [each for each in everyone if PASSWORD in " ".join(each.cmdline())]
            assert running.interrupt() == 0
    finally:
        redis.stop()
    shown = "".join(running.seen)
    assert PASSWORD not in shown
    assert f"redis://:***@{redis.address}/0" in shown


def test_one_that_cannot_start_ends_everything() -> None:
    with up("--scheduler.capacity-policy=FAIREST") as running:
        running.until(r"quire up: error: scheduler ended with exit code 1: quire scheduler: error: capacity_policy: ")
        assert running.process.wait(SECONDS) == 1
