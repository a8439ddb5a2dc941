"""What a test must not leave in the log."""

import logging

import pytest

# One poller serves all event loops of a process. So a loop may be told of what belongs to that of an earlier test,
# which is closed by now.
_OF_OTHERS = "PollerCompletionQueue"


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and worse, but for gRPC's about loops of earlier tests."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [message for message in (record.getMessage() for record in records) if _OF_OTHERS not in message]
