"""ARRIVAL_ORDER: tenants are not told apart."""

from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.sequence import Sequence


class ArrivalOrder(TenantPolicy):
    """All sequences wait in one line."""

    def line(self, sequence: Sequence) -> str:
        return ""

    def level(self, line: str) -> float:
        return 0.0

    def price(self, sequence: Sequence) -> float:
        return 0.0
