"""One line per message, whatever peers call themselves."""

import logging
import sys

import pytest

from quire.services.common.logs import OneLineFormatter, escaped

FORGED = "peer\n12:00:00.000 INFO    quire.services: all is well"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Füße 😀中", "Füße 😀中"),
        (FORGED, FORGED.replace("\n", "\\n")),
        ("a\r\x1b[2Kb\x00", "a\\r\\x1b[2Kb\\x00"),
        ("a\x85b\u2028c\u202ed", "a\\x85b\\u2028c\\u202ed"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_neither_arguments_nor_tracebacks_begin_a_line() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord("quire", logging.INFO, __file__, 1, "connected: %s", (FORGED,), failure, sinfo=FORGED)
    first, *others = OneLineFormatter("%(name)s: %(message)s").format(record).split("\n")
    assert first == f"quire: connected: {escaped(FORGED)}"
    assert others[0].startswith("    Traceback")
    assert all(line.startswith("    ") for line in others)
