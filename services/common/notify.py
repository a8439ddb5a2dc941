"""Tells whoever has started this process that it serves, as systemd's services do: see sd_notify(3)."""

import os
import socket
from contextlib import suppress
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"


def notify_ready() -> None:
    """Says READY=1, and which process does, to the socket that the environment names; if none, nothing."""
    place = os.environ.get(VARIABLE, "")
    if not place:
        return
    # Whoever does not listen any more has no use for it.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + place[1:] if place.startswith("@") else place)
        sender.send(f"READY=1\nX_QUIRE_PID={os.getpid()}".encode())
