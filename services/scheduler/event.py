"""What happens to the services around a scheduler: faults, and how they were got over."""

import time
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What happened, and whether `Event.seconds` is set.

    The subject is an executor's address, which is its pool's name too, or the epoch.
    """

    EPOCH_TAKEN = "epoch_taken"
    EXECUTOR_ATTACHED = "executor_attached"
    EXECUTOR_DRAINING = "executor_draining"
    EXECUTOR_LEFT = "executor_left"
    """In order, with nothing left on it."""
    EXECUTOR_LOST = "executor_lost"
    EXECUTOR_RECOVERED = "executor_recovered"
    """One that was lost is attached again, `seconds` later."""
    REQUESTS_RECOVERED = "requests_recovered"
    """All requests that ran on a lost executor have made their next token elsewhere, or ended, `seconds` later."""
    LEDGER_REFUSED = "ledger_refused"
    """It refused, lost or did not get what changed."""
    LEDGER_DROPPED = "ledger_dropped"
    """Its content was no use when the executor was attached; the pool starts empty."""
    LEDGER_RECOVERED = "ledger_recovered"
    """It was seeded from the mirror, `seconds` behind LEDGER_REFUSED; steps waited for that."""


@dataclass(frozen=True, slots=True)
class Event:
    """One of them.

    Attributes:
        detail: for people.
        seconds: how long it took to get over what had happened; None: nothing had.
        at: Unix time, in seconds.
    """

    kind: EventKind
    subject: str
    detail: str = ""
    seconds: float | None = None
    at: float = field(default_factory=time.time)
