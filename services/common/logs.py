"""Logging, configured once where a process starts."""

import logging
import sys
import textwrap
from types import TracebackType

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
_INDENT = "    "


def configure(level: str) -> None:
    """One line per message on standard error: time, level, what it is about."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter(_FORMAT, "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    for noisy in ("httpx", "urllib3", "filelock", "asyncio", "grpc", "redis"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class OneLineFormatter(logging.Formatter):
    """Names, ids and addresses come from peers: none of them can begin a line that looks like a message.

    Characters that are not printable are escaped as in a Python literal. Tracebacks keep their lines, indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(stack_info)


def escaped(text: str) -> str:
    """The text on one line: line breaks, control characters and lone surrogates as `\\n`, `\\x1b`, `\\ud800`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _indented(text: str) -> str:
    return textwrap.indent("\n".join(map(escaped, text.split("\n"))), _INDENT, lambda line: True)
