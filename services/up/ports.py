"""Where the services of one machine listen."""

import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from quire.engine.api.errors import StartupError
from quire.services.common.address import bound_socket, joined
from quire.services.up.settings import UpSettings

LOOPBACK: Final = "127.0.0.1"
# Hosts that stand for every address of the machine, and how it reaches itself there.
_WILDCARDS: Final = {"0.0.0.0": LOOPBACK, "::": "::1", "[::]": "::1"}  # noqa: S104


class _Wanted(NamedTuple):
    flag: str
    host: str
    port: int


def free_port() -> int:
    """A TCP port of loopback on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports() -> Iterator[int]:
    """As `free_port`, each once."""
    given = set[int]()
    while True:
        if (port := free_port()) not in given:
            given.add(port)
            yield port


def reachable(host: str) -> str:
    """The host by which this machine reaches what listens at `host`."""
    return _WILDCARDS.get(host, host)


def check_ports(settings: UpSettings) -> None:
    """Another server's services would be taken for ours if they listened there.

    Raises:
        StartupError: a port that is asked for is in use, or asked for twice; the message names it and its flag.
    """
    if reason := _why_not(settings.host, 0):
        raise StartupError(f"--host {settings.host}: cannot listen there: {reason}")
    complaints, flags = [], dict[int, str]()
    for flag, host, port in _wanted(settings):
        if other := flags.get(port):
            complaints.append(f"{flag} {port}: {other} has the same port")
        elif reason := _why_not(host, port):
            complaints.append(f"{flag} {port}: cannot listen on {joined(host, port)}: {reason}")
        flags[port] = flag
    if complaints:
        raise StartupError("; ".join(complaints))


def _wanted(settings: UpSettings) -> Iterator[_Wanted]:
    """The ports that are given, not chosen."""
    if settings.frontend_port:
        yield _Wanted("--frontend-port", settings.host, settings.frontend_port)
    if settings.http_port:
        yield _Wanted("--http-port", settings.host, settings.http_port)
    if settings.scheduler_port:
        yield _Wanted("--scheduler-port", LOOPBACK, settings.scheduler_port)
    if settings.executor_port:
        for index in range(settings.num_executors):
            yield _Wanted("--executor-port", LOOPBACK, settings.executor_port + index)

    for port in settings.ports_of_metrics:
        if port:
            yield _Wanted("--metrics-port", LOOPBACK, port)


def _why_not(host: str, port: int) -> str:
    try:
        bound_socket(joined(host, port)).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
