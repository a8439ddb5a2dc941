"""Logging, configured once where a process starts: lines for people, or JSON objects for machines."""

import json
import logging
import sys
import textwrap
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, TypeAlias

from quire.engine.api.trace_context import TraceContext

LogFormat: TypeAlias = Literal["text", "json"]
_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
_INDENT = "    "
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
# What every record has; the rest came as `extra`. uvicorn's copy of its message in colours is none.
_STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"))

REQUEST: Final[ContextVar[Mapping[str, str]]] = ContextVar("request", default=_NOTHING)
"""`request_fields` of the request that the running task serves. Every line that is logged on its behalf gets them."""


def configure(level: str, log_format: LogFormat = "text", service: str = "") -> None:
    """One line per message on standard error: time, level, what it is about.

    Args:
        service: the command's name, which a JSON object has.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if log_format == "json" else OneLineFormatter(_FORMAT, "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    for noisy in ("httpx", "urllib3", "filelock", "asyncio", "grpc", "redis"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def request_fields(request_id: str, trace: TraceContext | None = None) -> dict[str, str]:
    """What a line says of the request that it is about: `extra` of a call that logs, or what `REQUEST` is set to."""
    return {"request_id": request_id} | ({"trace_id": trace.trace_id, "span_id": trace.span_id} if trace else {})


class OneLineFormatter(logging.Formatter):
    """Names, ids and addresses come from peers: none of them can begin a line that looks like a message.

    Characters that are not printable are escaped as in a Python literal. Tracebacks keep their lines, indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        line, fields = super().formatMessage(record), _fields(record)
        about = [f"{name}={fields[name]}" for name in ("request_id", "trace_id") if name in fields]
        return escaped(f"{line} [{' '.join(about)}]" if about else line)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(stack_info)


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    Its fields are `time` (RFC 3339, UTC, milliseconds), `level`, `logger`, `message` and `service`; of a request
    `request_id`, `trace_id` and `span_id`; `exception` and `stack`; and whatever else a call gave as `extra`.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(
            line | {name: value for name, value in _fields(record).items() if name not in line}, default=str
        )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is known beside the message: of the request that is served, and as `extra`."""
    return {**REQUEST.get(), **{name: value for name, value in vars(record).items() if name not in _STANDARD}}


def escaped(text: str) -> str:
    """The text on one line: line breaks, control characters and lone surrogates as `\\n`, `\\x1b`, `\\ud800`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _indented(text: str) -> str:
    return textwrap.indent("\n".join(map(escaped, text.split("\n"))), _INDENT, lambda line: True)
