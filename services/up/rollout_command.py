"""`quire rollout`: a running `quire up` replaces its services one at a time."""

import json
import socket
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.errors import QuireError
from quire.services.up.control import RolloutOrder, default_control
from quire.services.up.settings import UpSettings

_OWN = {"wait_seconds", "allow_pause"}


class Settings(UpSettings):
    """Replace every service of a running `quire up`, one at a time, while requests go on.

    Settings of `quire up` that are given here are those of the new processes; the others stay as they are.
    """

    model_config = SettingsConfigDict(env_prefix="QUIRE_ROLLOUT_")

    wait_seconds: float = Field(300.0, gt=0)
    """How long each new process may take until it serves."""

    allow_pause: bool = False
    """Replace also a scheduler without a standby, and an only executor: requests fail until the new one serves."""


def run(settings: Settings) -> int:
    """Prints a line for each service; returns the exit code."""
    place = settings.control or default_control(settings.frontend_port)
    changes = settings.model_dump(mode="json", exclude_unset=True, exclude=_OWN)
    changes.pop("control", None)
    order = RolloutOrder(changes=changes, wait_seconds=settings.wait_seconds, allows_pause=settings.allow_pause)
    error = _ask(place, order)
    if error is not None:
        print(f"quire rollout: error: {error}", file=sys.stderr)
    return 0 if error is None else 1


def _ask(place: Path, order: RolloutOrder) -> str | None:
    """What was not done."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(place))
        except OSError as error:
            raise QuireError(f"--control {place}: no `quire up` listens there: {error.strerror}") from error
        connection.sendall(order.model_dump_json().encode() + b"\n")
        for line in connection.makefile():
            message = json.loads(line)
            if "text" not in message:
                found: str | None = message["error"]
                return found
            print(message["text"], flush=True)
    return "`quire up` has ended; what was not replaced yet has ended with it"
