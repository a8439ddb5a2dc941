"""A resource manager that bounds the tokens that each tenant may have in running requests."""

import os
from collections import Counter

from quire.engine.api.errors import InvalidRequest
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.base import ResourceManager
from quire.engine.sequence import Sequence
from quire.engine.step import ExecutorInfo


class TenantBudget(ResourceManager):
    """Lets a tenant's requests wait while those that run may come to `TENANT_TOKENS` tokens, 4096 by default.

    A tenant is a cache salt. A request counts with its prompt and `max_tokens`.
    """

    def __init__(self, config: SchedulerConfig, info: ExecutorInfo) -> None:
        self._budget = int(os.environ.get("TENANT_TOKENS", "4096"))
        self._used: Counter[str] = Counter()
        self._running: dict[Sequence, int] = {}

    def validate(self, request: Request) -> None:
        needed = len(request.prompt) + (request.params.max_tokens or 0)
        if needed > self._budget:
            raise InvalidRequest(
                "sampling.max_tokens",
                request.params.max_tokens,
                f"with the prompt must be at most {self._budget} tokens, the budget of a tenant",
            )

    def can_start(self, sequence: Sequence) -> bool:
        return self._used[_tenant(sequence)] + sequence.max_len <= self._budget

    def start(self, sequence: Sequence) -> None:
        self._running[sequence] = sequence.max_len
        self._used[_tenant(sequence)] += sequence.max_len

    def free_resources(self, sequence: Sequence) -> None:
        self._used[_tenant(sequence)] -= self._running.pop(sequence, 0)


def _tenant(sequence: Sequence) -> str:
    return sequence.request.options.cache.salt
