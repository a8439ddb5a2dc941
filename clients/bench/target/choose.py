"""From `--target` to a connection."""

import importlib

from quire.clients.bench.target.base import Target
from quire.clients.bench.target.grpc import GrpcTarget
from quire.engine.api.errors import StartupError


def open_target(
    url: str, model: str | None, ignore_eos: bool, temperature: float, timeout: float, multiplex: bool
) -> Target:
    """A connection to grpc://host:port or http://host:port; call it inside the event loop that uses it.

    Raises:
        StartupError: it is neither, or cannot multiplex, or HTTP needs a package that is not installed.
    """
    scheme, _, address = url.partition("://")
    if scheme == "grpc":
        return GrpcTarget(address.rstrip("/"), ignore_eos, temperature, timeout, multiplex)
    if scheme not in ("http", "https"):
        raise StartupError(f"--target {url}: must be grpc://host:port or http://host:port")
    if multiplex:
        raise StartupError(f"--multiplex: needs a target grpc://host:port, got {url}")
    try:
        module = importlib.import_module("quire.clients.bench.target.http")
    except ModuleNotFoundError as error:
        raise StartupError(f"--target {url}: needs aiohttp; pip install 'quire[bench]'") from error
    target: Target = module.HttpTarget(url, model, ignore_eos, temperature, timeout)
    return target
