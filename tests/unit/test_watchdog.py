"""A process that is stuck ends by itself and says where; one that was stopped, or is slow for a reason, goes on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quire.services.common.watchdog import STUCK_EXIT_CODE
from support import stuck_process

# Far more than it takes: a busy machine must not fail a test.
SECONDS = 120.0


def start(way: str) -> "subprocess.Popen[str]":
    """A process that is watched, and has just said so."""
    command = [sys.executable, str(Path(stuck_process.__file__)), way]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "watched\n"
    return process


@pytest.mark.parametrize(
    ("way", "reason", "place"),
    [
        ("loop", "the event loop makes no progress for", "block_the_loop"),
        ("step", "a step makes no progress for", "hang_in_a_step"),
    ],
)
def test_what_is_stuck_ends_and_says_where(way: str, reason: str, place: str) -> None:
    with start(way) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == STUCK_EXIT_CODE
    assert reason in said
    assert place in said


def test_a_step_that_may_take_long_is_waited_for() -> None:
    with start("long step") as process:
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (0, "")


def test_a_process_that_was_stopped_goes_on() -> None:
    """For longer than it may be stuck: it was not."""
    with start("wait") as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.0)
        process.send_signal(signal.SIGCONT)
        said = process.communicate("go on\n", timeout=SECONDS)[1]
    assert (process.returncode, said) == (0, "")
