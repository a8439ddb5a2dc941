"""Clients for the Redis that a URL names.

    redis://[[user]:password@]host[:port][/db]          one server
    rediss://…                                          the same with TLS
    unix://[[user]:password@]/path[?db=n]               one server's socket
    redis+sentinel://[[user]:password@]host:port[,…]/service[/db]
                                                        the master that these sentinels name
    redis+cluster://[[user]:password@]host:port[,…]     the cluster that these nodes are part of

`rediss+sentinel` and `rediss+cluster` use TLS too. Every form takes redis-py's options after a `?`, as in
`rediss://host?ssl_ca_certs=/etc/ca.pem`. Options that begin with `sentinel_` are for the connections to sentinels.
The password may be in a file instead, where nobody sees it in an environment.
"""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
)

from quire.engine.api.errors import LedgerDenied, LedgerUnreachable

_URL = re.compile(r"(rediss?(\+sentinel|\+cluster)?|unix)://.")
_DENIALS = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)
HEALTH_CHECK_SECONDS = 15
# One for each call under way; executors bound those.
MAX_CONNECTIONS = 10_000
SENTINEL_PREFIX = "sentinel_"


def _checked(url: str) -> str:
    if not _URL.match(url):
        raise ValueError(
            "must be a URL that begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    return url


RedisUrl = Annotated[str, AfterValidator(_checked)]


class _PasswordFile(CredentialProvider):
    """A user's password as the file has it when a connection is opened, so that it can be replaced.

    Args:
        user: as a URL has it; "": the default user.
    """

    def __init__(self, user: str, path: Path) -> None:
        self._user = unquote(user) or "default"
        self._path = path

    def get_credentials(self) -> tuple[str, str]:
        return self._user, self._path.read_text().strip()

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


def connect(url: str, timeout: float = 5.0, password_file: Path | None = None) -> Redis | RedisCluster:
    """A client that connects when it is first used, and again after it was cut off.

    It never sends a command twice by itself: whether the first one was applied is for the caller to find out.

    Args:
        timeout: seconds that connecting and each call may take.
        password_file: has the password of the URL's user; None: the URL has it, if there is one.

    Raises:
        ValueError: the URL is malformed; the message does not repeat it.
    """
    credentials: dict[str, Any] = {}
    if password_file is not None:
        user, url = _without_user(url)
        credentials = {"credential_provider": _PasswordFile(user, password_file)}
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    try:
        parts = urlsplit(url)
        if parts.scheme.endswith("+sentinel"):
            return _sentinel(parts, options, credentials)
        if parts.scheme.endswith("+cluster"):
            return _cluster(parts, options | credentials)
        client: Redis = Redis.from_url(url, **options, **credentials)
        # Finds options that do not exist; nothing is sent.
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, RedisError, RedisClusterException) as error:
        raise ValueError(f"unknown or wrong option: {error}") from error
    return client


async def close(client: Redis | RedisCluster) -> None:
    """Closes every connection of a client that `connect` made."""
    await client.aclose()
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


@contextmanager
def reaching() -> Iterator[None]:
    """Redis's own faults, as the ledger's.

    A cancellation that redis-py has lost is found again. It sends with `asyncio.wait_for`, which before Python 3.12
    loses one that comes just when all is sent: a service that is told to stop at that moment would go on.
    """
    task = asyncio.current_task()
    num_cancelled = task.cancelling() if task else 0
    try:
        yield
    except _DENIALS as error:
        raise LedgerDenied(f"Redis: {_reason(error)}") from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise LedgerUnreachable(f"Redis: {_reason(error)}") from error
    finally:
        if task and task.cancelling() > num_cancelled:
            raise asyncio.CancelledError


def redacted(url: str) -> str:
    """The URL with every password replaced by stars, to be shown."""
    url = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url)


def _without_user(url: str) -> tuple[str, str]:
    """The user that a URL names, and the URL without it."""
    found = re.match(r"([^:]+://)(?:([^/?@]*)@)?(.*)", url)
    assert found is not None
    start, user, rest = found.groups(default="")
    if ":" in user:
        raise ValueError("the password must be in the URL or in the file, not in both")
    return user, start + rest


def _sentinel(parts: SplitResult, options: dict[str, Any], credentials: dict[str, Any]) -> Redis:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the sentinels' service is missing: …host:port/service")
    given = _options(parts, db)
    own = {name: value for name, value in given.items() if name.startswith("ssl")}
    for name in [name for name in given if name.startswith(SENTINEL_PREFIX)]:
        own[name.removeprefix(SENTINEL_PREFIX)] = given.pop(name)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(parts, 26379), sentinel_kwargs=options | own, **(options | given | credentials)
    )
    client: Redis = sentinel.master_for(service)
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    return client


def _cluster(parts: SplitResult, options: dict[str, Any]) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, 6379)]
    return RedisCluster(startup_nodes=nodes, **(options | _options(parts, parts.path.strip("/"))))


def _options(parts: SplitResult, db: str) -> dict[str, Any]:
    """What redis-py reads in the URL, but the hosts."""
    user, at, _ = parts.netloc.rpartition("@")
    options = dict(parse_url(f"redis://{user}{at}/{db}?{parts.query}"))
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return options


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        found = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?", place)
        if found is None:
            raise ValueError(f"{place!r} is no host:port")
        hosts.append((found[1].strip("[]"), int(found[2] or default_port)))
    return hosts


def _reason(error: Exception) -> str:
    """What went wrong, without the repetitions of redis-py's "Error 111 connecting to HOST. Connect call failed"."""
    found = re.match(r"Error (-?\d+) connecting to (\S+)\. (.*)", str(error))
    if found is None:
        return str(error).rstrip(".") or type(error).__name__
    number, place, prose = int(found[1]), found[2], found[3]
    return f"cannot connect to {place}: {os.strerror(number) if number > 0 else prose.rstrip('.')}"
