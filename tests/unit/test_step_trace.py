"""The timeline's file: what becomes of it when it cannot be written."""

import os
from pathlib import Path

import pytest

from quire.engine.trace import Trace


def test_a_full_disk_ends_the_trace_and_not_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"executor-{os.getpid()}.json").symlink_to("/dev/full")
    trace = Trace(tmp_path, "executor")
    for _ in range(2):
        trace.request("b", "r1")
        trace.flush()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["No space left on device"]
