"""From `--target` to a connection."""

import importlib
from pathlib import Path
from urllib.parse import urlsplit

from quire.clients.bench.target.base import Target
from quire.clients.bench.target.grpc import GrpcTarget
from quire.engine.api.errors import StartupError
from quire.protos.credentials import Credentials

_ALLOWED = "must be host:port, grpc://host:port or grpcs://host:port of a frontend, or http[s]://host[:port]"


def open_target(
    url: str,
    model: str | None,
    ignore_eos: bool,
    temperature: float,
    timeout: float,
    multiplex: bool,
    api_key: str = "",
    authority: Path | None = None,
) -> Target:
    """A connection to [grpc[s]://]host:port or http[s]://host:port; call it inside the event loop that uses it.

    Args:
        api_key: brought by every request; "": none.
        authority: file with the authorities that a server's certificate must come from; None: the system's.

    Raises:
        StartupError: it is neither, or cannot multiplex, or HTTP needs a package that is not installed.
    """
    scheme, has_scheme, address = url.rpartition("://")
    if scheme in ("grpc", "grpcs") or not has_scheme:
        credentials = Credentials(scheme == "grpcs", authority, token=api_key)
        return GrpcTarget(_host_and_port(url, address), ignore_eos, temperature, timeout, multiplex, credentials)
    if scheme not in ("http", "https") or not _is_host(address):
        raise StartupError(f"--target {url}: {_ALLOWED}")
    if multiplex:
        raise StartupError(f"--multiplex: needs a target grpc://host:port, got {url}")
    try:
        module = importlib.import_module("quire.clients.bench.target.http")
    except ModuleNotFoundError as error:
        raise StartupError(f"--target {url}: needs aiohttp; pip install 'quire[bench]'") from error
    target: Target = module.HttpTarget(url, model, ignore_eos, temperature, timeout, api_key, authority)
    return target


def _host_and_port(url: str, address: str) -> str:
    found = address.rstrip("/")
    if "/" in found or not _is_host(found) or urlsplit(f"//{found}").port is None:
        raise StartupError(f"--target {url}: {_ALLOWED}")
    return found


def _is_host(address: str) -> bool:
    """Whether it begins with a host and, if any, a port that can be."""
    try:
        parts = urlsplit(f"//{address}")
        return bool(parts.hostname) and parts.port != 0 and not any(map(str.isspace, address))
    except ValueError:  # the port, or the brackets of an IPv6 address
        return False
