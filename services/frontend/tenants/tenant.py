"""One tenant of a frontend: what its rules allow, and what it has used."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from quire.engine.api.errors import Forbidden, LimitReached
from quire.engine.api.options import CacheParams, RequestOptions
from quire.services.frontend.tenants.budget import Budget
from quire.services.frontend.tenants.rules import Rules

# How long requests take is not known, so that the time for another one is a guess.
_RETRY_SECONDS = 1.0


class Tenant:
    """Counts of this process; they stay when the rules are replaced.

    Args:
        name: of the tenant.
        rules: that hold now.
        num_workers: processes of the frontend, among which limits are divided.
        clock: seconds.

    Attributes:
        name, rules: as given.
    """

    def __init__(
        self, name: str, rules: Rules, num_workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.rules = rules
        self._num_workers = num_workers
        self._num_open = 0
        self._requests, self._tokens = Budget(clock), Budget(clock)

    def check(self) -> None:
        """Raises `LimitReached` if not one more request may begin now."""
        rules = self.rules
        most = rules.max_concurrent_requests
        if most is not None and self._num_open >= self._share(most):
            raise LimitReached(f"key of {self.name}: {self._told(most)} requests may be open at once", _RETRY_SECONDS)
        for budget, limit, what in (
            (self._requests, rules.requests_per_minute, "requests"),
            (self._tokens, rules.tokens_per_minute, "tokens"),
        ):
            if limit is not None and (seconds := budget.seconds_until_free(self._share(limit))):
                raise LimitReached(f"key of {self.name}: {self._told(limit)} {what} a minute are allowed", seconds)

    def begin(self, prompts: Sequence[int]) -> None:
        """Requests with prompts of so many tokens begin, all of them; `end` each.

        Raises:
            Forbidden: they are more than may be open at once.
            LimitReached: they may not begin now.
        """
        self.check()
        count, most = len(prompts), self.rules.max_concurrent_requests
        if most is not None and self._num_open + count > self._share(most):
            message = f"key of {self.name}: {self._told(most)} requests may be open at once, and these are {count}"
            if count > self._share(most):
                raise Forbidden(message)
            raise LimitReached(message, _RETRY_SECONDS)
        self._num_open += count
        if self.rules.requests_per_minute is not None:
            self._requests.spend(count)
        self.spend_tokens(sum(prompts))

    def spend_tokens(self, count: int) -> None:
        """So many tokens are computed."""
        if self.rules.tokens_per_minute is not None:
            self._tokens.spend(count)

    def end(self, count: int = 1) -> None:
        """So many requests that have begun are over."""
        self._num_open -= count

    def check_adapter(self, adapter: str) -> None:
        """Raises `Forbidden` for the name of an adapter that may not be used; "" is none."""
        if adapter and self.rules.models and adapter not in self.rules.models:
            raise Forbidden(f"adapter: {adapter!r} may not be used with the key of {self.name}")

    def own(self, options: RequestOptions) -> RequestOptions:
        """Valid options, made this tenant's: with its name, and a cache of its own.

        Raises:
            Forbidden: the priority is too high.
        """
        most = self.rules.max_priority
        if options.priority > most:
            raise Forbidden(f"priority: must be at most {most} with the key of {self.name}, got {options.priority}")
        cache = replace(options.cache, salt=self._salt(options.cache))
        return replace(options, tenant=self.name, tenant_weight=self.rules.weight, cache=cache)

    def check_operator(self) -> None:
        """Raises `Forbidden` unless it may see what tells of other tenants."""
        if not self.rules.operator:
            raise Forbidden(f"the key of {self.name} is not an operator's")

    def _share(self, limit: int) -> float:
        return max(1.0, limit / self._num_workers)

    def _told(self, limit: int) -> str:
        """A limit, for refusals."""
        if self._num_workers == 1:
            return f"{limit}"
        return f"{self._share(limit):g} of {limit}, as there are {self._num_workers} workers,"

    def _salt(self, cache: CacheParams) -> str:
        """The same in every frontend, now and later. It need be no secret: no client can choose what is hashed, but
        for its own part."""
        if self.rules.shared_cache and not cache.salt:
            return ""
        owner = None if self.rules.shared_cache else self.name
        return hashlib.sha256(json.dumps([owner, cache.salt]).encode()).hexdigest()
