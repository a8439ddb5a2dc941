"""Places of services: "host:port", as sockets listen there."""

import errno
import ipaddress
import socket


def joined(host: str, port: int) -> str:
    """ "host:port"; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether "host:port" names only this machine: an address of loopback, or localhost."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound_socket(address: str, shares_port: bool = False) -> socket.socket:
    """A TCP socket that is bound there; port 0 chooses a free one.

    Others of this user may listen there, too, if they all say so.

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
        if shares_port:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(place)
    except OSError:
        found.close()
        raise
    return found
