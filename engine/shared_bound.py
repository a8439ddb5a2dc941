"""A bound on what is held at once, which tenants share."""

from typing import Final

# Of a bound, what is kept for tenants that have less than their share of it.
_KEPT: Final = 1 / 4


class SharedBound:
    """Counts what each tenant holds. The last quarter is for tenants that hold less than their share.

        0                                        most - kept          most
        ├────────── whoever comes first ──────────────┼── below its share ─┤

    A share is by weight among those that hold something and one more that may come. So a newcomer finds room beside a
    tenant that takes all it can get. As long as nobody but the tenant "" comes, nothing is kept.

    Args:
        most: that may be held at once.

    Attributes:
        most: as given.
        held: by all together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._kept = 0
        self._by_tenant: dict[str, int] = {}
        self._weights: dict[str, int] = {}
        self._sum_weights = 0

    def share(self, tenant: str, weight: int) -> int:
        """What the tenant may always have, unless others hold more than their shares."""
        others = self._sum_weights - self._weights.get(tenant, 0)
        return self.most * weight // (others + weight + 1)

    def fits(self, tenant: str, weight: int, amount: int = 1) -> bool:
        """Whether the tenant may hold so much more; one that holds nothing may exceed its share."""
        after = self.held + amount
        if after <= self.most - self._kept:
            return True
        held = self._by_tenant.get(tenant, 0)
        return after <= self.most and (not held or held + amount <= self.share(tenant, weight))

    def excess(self, tenant: str, weight: int) -> str:
        """What the tenant holds, and its share, for messages."""
        held, share = self._by_tenant.get(tenant, 0), self.share(tenant, weight)
        return f"{held} of them of {tenant or 'callers without a key'}, whose share of {self.most} is {share}"

    def full_for(self) -> list[str]:
        """The tenants, of those that hold something, that may hold no more; none while nothing is kept for others."""
        if not self._kept or self.held < self.most - self._kept:
            return []
        return [name for name, weight in self._weights.items() if not self.fits(name, weight)]

    def add(self, tenant: str, weight: int, amount: int = 1) -> None:
        """The tenant holds so much more, whether it fits or not."""
        if tenant and not self._kept:
            self._kept = int(self.most * _KEPT)
        self.held += amount
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0) + amount
        self._sum_weights += weight - self._weights.get(tenant, 0)
        self._weights[tenant] = weight

    def remove(self, tenant: str, amount: int = 1) -> None:
        """The tenant holds so much less."""
        self.held -= amount
        self._by_tenant[tenant] -= amount
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
            self._sum_weights -= self._weights.pop(tenant)
