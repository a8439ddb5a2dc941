"""`quire health` against a server that can work, one that cannot, and none."""

import asyncio
import re

import pytest

from quire.clients.health import Settings, run
from quire.services.cli import main
from quire.services.common.health import LIVE
from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK, free_port

NAME = "quire.test.Service"


async def asked(address: str, service: str = "") -> int:
    return await asyncio.to_thread(run, Settings(address=address, service=service))


async def test_it_says_what_the_server_says(capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    async with serving(place, [NAME], lambda server: None, grace=0) as health:
        assert await asked(place) == await asked(place, NAME) == 1
        assert await asked(place, LIVE) == 0
        await health.set("")
        assert await asked(place) == await asked(place, NAME) == 0
        assert capsys.readouterr().out.split("\n") == ["NOT_SERVING: it starts"] * 2 + ["SERVING"] * 3 + [""]
        await health.set("no executor is \u2026 there")
        assert await asked(place) == 1
        assert capsys.readouterr().out == "NOT_SERVING: no executor is \\u2026 there\n"
        assert await asked(place, "quire.test.Other") == 1
        assert re.match(f"quire health: error: {place}: NOT_FOUND", capsys.readouterr().err)


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", f"{LOOPBACK}:{free_port()}"]) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "UNAVAILABLE" in error


def test_an_address_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["health", "localhost"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("quire health: error: ADDRESS: must be host:port")
