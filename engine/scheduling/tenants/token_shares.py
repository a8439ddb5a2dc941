"""TOKEN_SHARES: tenants that have something waiting get tokens in the ratio of their weights."""

from collections import defaultdict
from collections.abc import Collection
from collections.abc import Sequence as List
from typing import Final

from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.sequence import Sequence

# What a token counts: one that is generated takes a row of a step of its own, one of a prompt shares it with others.
CONTEXT_TOKEN: Final = 1
GENERATED_TOKEN: Final = 2
# Lines that are known before it is worth while to forget some.
_MANY: Final = 256


class TokenShares(TenantPolicy):
    """A line's level is the work done for its tenant, divided by the tenant's weight.

    Work is context tokens that are computed, counted when their sequence first starts, and generated tokens, counted
    as they come. What a pause or a fault makes computed again counts for nobody.

    A tenant that comes back is lifted to the lowest level among those that wait: it may not save up. Nothing idles
    while somebody waits. While a single tenant is known, nothing is counted.

    Source: the virtual token counter of Y. Sheng et al., "Fairness in serving large language models", OSDI 2024, and
    its prices.
    """

    def __init__(self) -> None:
        self._levels: defaultdict[str, float] = defaultdict(float)
        self._latest = ""
        self._forget_at = _MANY

    def enter(self, line: str, others: Collection[str]) -> None:
        # With nobody else waiting, it is compared with the one that waited last.
        floor = min((self._levels[other] for other in others), default=self._levels.get(self._latest, 0.0))
        if len(self._levels) >= self._forget_at:
            kept = {name: level for name, level in self._levels.items() if level > floor or name in others}
            self._levels = defaultdict(float, kept)
            self._forget_at = max(_MANY, 2 * len(kept))
        self._levels[line] = max(self._levels[line], floor)

    def level(self, line: str) -> float:
        return self._levels[line]

    def price(self, sequence: Sequence) -> float:
        return CONTEXT_TOKEN * sequence.num_context_left / sequence.request.options.tenant_weight

    def start(self, sequence: Sequence) -> None:
        self._latest = line = self.line(sequence)
        if not sequence.was_started:
            self._levels[line] += self.price(sequence)

    def generate(self, sequences: List[Sequence]) -> None:
        levels = self._levels
        if len(levels) < 2:
            return
        for sequence in sequences:
            options = sequence.request.options
            levels[options.tenant] += GENERATED_TOKEN / options.tenant_weight
