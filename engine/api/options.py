"""Wishes of a request beyond sampling: how its text becomes tokens, its priority, how its KV blocks are kept."""

from dataclasses import dataclass

from quire.engine.api.trace_context import TraceContext

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
class PromptParams:
    """How a prompt becomes the tokens that are computed.

    Attributes:
        add_special_tokens: of a text, with those that the model's folder puts round one.
        truncate_prompt_tokens: keep the last tokens only, at most so many; None: all, or the prompt is refused.
    """

    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Wishes of a request beyond sampling.

    Attributes:
        priority: higher goes first; -100 to 100.
        cache: how its blocks are shared and kept.
        prompt: how its prompt becomes tokens.
        trace: the caller's trace that it belongs to.
        adapter: name of the adapter that changes the model for it; "": none does.
        tenant: whose it is; "": tenants are not told apart.
        tenant_weight: the tenant's share of what is computed, against that of others; 1 to 1000.
        deadline_ms: after so many milliseconds it ends with what it has, as if aborted; None: never.
    """

    priority: int = 0
    cache: CacheParams = CacheParams()
    prompt: PromptParams = PromptParams()
    trace: TraceContext | None = None
    deadline_ms: int | None = None
    adapter: str = ""
    tenant: str = ""
    tenant_weight: int = 1


DEFAULT_OPTIONS = RequestOptions()
