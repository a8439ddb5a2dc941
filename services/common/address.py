"""Places of services: "host:port", as settings take them and sockets listen there."""

import errno
import socket
from typing import Annotated

from pydantic import AfterValidator

MAX_PORT = 65535


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > MAX_PORT:
        raise ValueError(f"must be host:port with a port of 0 to {MAX_PORT}")
    return address


def _checked_if_any(address: str) -> str:
    return address and _checked(address)


def _all_checked(addresses: str) -> str:
    for address in addresses.split(","):
        _checked(address)
    return addresses


Address = Annotated[str, AfterValidator(_checked)]
OptionalAddress = Annotated[str, AfterValidator(_checked_if_any)]
# Several, separated by commas.
Addresses = Annotated[str, AfterValidator(_all_checked)]


def joined(host: str, port: int) -> str:
    """ "host:port"; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def bound_socket(address: str) -> socket.socket:
    """A TCP socket that is bound there; port 0 chooses a free one.

    Raises:
        OSError: it cannot be; `strerror` says why.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "no host can have this name") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except OSError:
        found.close()
        raise
    return found
