"""`quire rollout`: every service of a stack is replaced under load, and no request fails or has another answer."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.redis import RedisLedger
from support.rollout_load import MixedLoad
from support.up_command import SECONDS, Up, up

NUM_CHILDREN = 6


@dataclass
class Rolled:
    """A stack that is there to be replaced, with what reaches it."""

    up: Up
    control: Path
    grpc: str
    http: str
    redis: str

    def processes(self) -> dict[int, list[str]]:
        """The command line of each process of the stack."""
        return {each.pid: each.cmdline() for each in psutil.Process(self.up.process.pid).children()}

    async def rollout(self, *flags: str) -> tuple[int, list[str], str]:
        """Exit code, lines of output, errors."""
        command = [sys.executable, "-m", "quire.services.cli", "rollout", f"--control={self.control}", *flags]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        async with asyncio.timeout(2 * SECONDS):
            out, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode().splitlines(), errors.decode()

    async def assert_settled(self) -> None:
        """The books of both pools are sound, and nothing is held."""
        ledger = RedisLedger.connect(self.redis)
        try:
            for name in await ledger.pools():
                async with asyncio.timeout(SECONDS):
                    while (found := await ledger.snapshot(name)) is None or found[1].holds:
                        await asyncio.sleep(0.02)
                assert audit(found[1], found[0].num_groups) == []
        finally:
            await ledger.close()


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    control = tmp_path_factory.mktemp("rollout") / "control.sock"
    flags = ("--num-executors=2", "--standby", "--drain-seconds=2", "--executor.dtype=float32", "--log-level=warning")
    # However long a process takes to start here.
    with up(*flags, f"--control={control}", QUIRE_FRONTEND_FAILOVER_SECONDS=str(SECONDS)) as running:
        grpc = running.until(r"frontend +(\S+:\d+) ")[1]
        http = running.until(r"http://(\S+:\d+) ")[1]
        redis = running.until(r"redis +(redis://\S+)")[1]
        running.until("Ctrl-C stops everything")
        yield Rolled(running, control, grpc, http, redis)
        assert running.interrupt() == 0
    assert not control.exists()


def replaced(lines: list[str]) -> list[str]:
    """Names of the services, in order."""
    found = [re.fullmatch(r"(\w+): replaced in \d+\.\d s", line) for line in lines]
    assert all(found), lines
    return [each[1] for each in found if each is not None]


@pytest.mark.long
async def test_every_service_is_replaced_and_no_request_fails(rolled: Rolled) -> None:
    before = rolled.processes()
    # So little that processes start soon.
    load = MixedLoad(rolled.grpc, rolled.http, num_tokens=20, pause=1.0)
    async with load.running():
        code, lines, errors = await rolled.rollout("--executor.num-blocks=80")
        assert (code, errors) == (0, "")
    names = replaced(lines)
    assert sorted(names[:2]) == ["scheduler", "standby"]
    assert names[2:] == ["executor0", "executor1", "frontend"]
    after = rolled.processes()
    (redis,) = before.keys() & after.keys()
    assert "redis-server" in before[redis][0]
    assert len(after) == NUM_CHILDREN
    executors = [line for line in after.values() if "executor" in line]
    assert len(executors) == 2
    assert all("--num-blocks=80" in line for line in executors)
    await rolled.assert_settled()


async def test_the_first_failure_stops_it_and_what_was_there_goes_on(rolled: Rolled) -> None:
    before = rolled.processes()
    code, lines, errors = await rolled.rollout("--scheduler.capacity-policy=FAIREST")
    assert (code, lines) == (1, [])
    found = re.fullmatch(
        r"quire rollout: error: (standby|scheduler) ended with exit code 1: .*got 'FAIREST'; it is started again as it "
        r"was before; left as they are: (standby|scheduler), executor0, executor1, frontend\n",
        errors,
    )
    assert found, errors
    # The next one is as before, once it has come to that: nothing of the failed one is left.
    async with asyncio.timeout(SECONDS):
        while sorted(before.values()) != sorted(rolled.processes().values()):
            await asyncio.sleep(0.05)
    assert len(before.keys() & rolled.processes().keys()) == NUM_CHILDREN - 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-executors=3",), "num_executors: must stay 2 as long as the stack runs, got 3; nothing was replaced"),
        (("--drain-seconds=700",), "--drain-seconds: input should be less than or equal to 600"),
        (("--control=/nowhere/at.all",), "--control /nowhere/at.all: no `quire up` listens there: No such file"),
    ],
    ids=["a number of processes", "a wrong value", "no stack"],
)
async def test_what_cannot_be_changed_replaces_nothing(rolled: Rolled, flags: tuple[str, ...], message: str) -> None:
    before = rolled.processes()
    code, lines, errors = await rolled.rollout(*flags)
    assert code in (1, 2)
    assert lines == []
    assert message in errors
    assert rolled.processes() == before


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_five_times_under_load(rolled: Rolled, capsys: pytest.CaptureFixture[str]) -> None:
    load = MixedLoad(rolled.grpc, rolled.http)
    async with load.running():
        for _ in range(5):
            code, lines, errors = await rolled.rollout()
            assert (code, errors) == (0, "")
            assert len(replaced(lines)) == NUM_CHILDREN - 1
            await load.round()
    await rolled.assert_settled()
    with capsys.disabled():
        print(f"\nanswers, all as expected: {dict(load.answers)}; HTTP asked again {load.num_http_retries} times")
