"""What happened to a service, as a line for people."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.scheduler.event import Event, EventKind

_CHANGE, _FAULT, _RECOVERY = pb.EVENT_LEVEL_CHANGE, pb.EVENT_LEVEL_FAULT, pb.EVENT_LEVEL_RECOVERY
_LINES: Final[Mapping[EventKind, tuple[pb.EventLevel.ValueType, str]]] = MappingProxyType(
    {
        EventKind.EPOCH_TAKEN: (_CHANGE, "this scheduler leads, epoch {subject}"),
        EventKind.EXECUTOR_ATTACHED: (_CHANGE, "executor {subject} is attached: {detail}"),
        EventKind.EXECUTOR_DRAINING: (_CHANGE, "executor {subject} drains: {detail}"),
        EventKind.EXECUTOR_LEFT: (_CHANGE, "executor {subject} has left"),
        EventKind.EXECUTOR_LOST: (_FAULT, "executor {subject} is lost: {detail}"),
        EventKind.EXECUTOR_RECOVERED: (_RECOVERY, "executor {subject} is back after {seconds}"),
        EventKind.REQUESTS_RECOVERED: (_RECOVERY, "requests of executor {subject} go on after {seconds}"),
        EventKind.LEDGER_REFUSED: (_FAULT, "ledger of executor {subject}: {detail}"),
        EventKind.LEDGER_DROPPED: (_FAULT, "ledger of executor {subject} was dropped: {detail}"),
        EventKind.LEDGER_RECOVERED: (_RECOVERY, "ledger of executor {subject} is seeded again after {seconds}"),
    }
)


def event_line(number: int, event: Event) -> pb.ServiceEvent:
    """An event as `Watch` sends it."""
    level, line = _LINES[event.kind]
    # Errors name the executor, too.
    detail = event.detail.removeprefix(f"executor {event.subject}: ")
    text = line.format(subject=event.subject, detail=detail, seconds=f"{event.seconds or 0:.2f} s")
    return pb.ServiceEvent(number=number, time_ms=round(1000 * event.at), level=level, text=text)
