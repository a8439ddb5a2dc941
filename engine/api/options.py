"""Wishes of a request to the scheduler: its priority, and how its KV blocks are shared and kept."""

from dataclasses import dataclass

DEFAULT_RETENTION_PRIORITY = 35


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the blocks of a range of tokens are kept in the cache, against others.

    Attributes:
        start, end: positions in prompt and generation, [start, end); None: to the last.
        priority: 0 to 100; blocks of higher priority are evicted later.
        duration_ms: after so long unused the blocks have the default priority of 35; None: never.
    """

    start: int
    end: int | None
    priority: int
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CacheParams:
    """How a request's KV blocks are shared and kept.

    Attributes:
        salt: blocks are shared only among requests of the same salt.
        opt_out: neither look for cached blocks nor leave any.
        retention: tokens in no range have priority 35; in several, the highest.
    """

    salt: str = ""
    opt_out: bool = False
    retention: tuple[Retention, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Wishes of a request to the scheduler, beyond its tokens.

    Attributes:
        priority: higher goes first; -100 to 100.
        cache: how its blocks are shared and kept.
    """

    priority: int = 0
    cache: CacheParams = CacheParams()


DEFAULT_OPTIONS = RequestOptions()
