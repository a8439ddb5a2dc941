"""Several faults at a time, of any kind, of any service."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.cluster import Cluster
from chaos.fault import Fault, Kind

_COUNTS = (2, 5)
_PAUSES = (0.0, 0.4)


@dataclass(frozen=True)
class Several(Fault):
    """Faults one behind the other, none of which is undone before all have come."""

    faults: tuple[Fault, ...]
    pauses: tuple[float, ...]

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.faults)

    async def apply(self) -> None:
        for fault, pause in zip(self.faults, self.pauses, strict=True):
            await fault.apply()
            await asyncio.sleep(pause)

    async def undo(self) -> None:
        # What hangs because of a later one is undone behind it.
        for fault in reversed(self.faults):
            await fault.undo()


def several(kinds: Sequence[Kind]) -> Kind:
    """Two to five of these; only that requests go on is promised then."""

    async def make(cluster: Cluster, chance: random.Random) -> Fault:
        chosen = chance.sample(kinds, chance.randint(*_COUNTS))
        faults = [await kind.make(cluster, chance) for kind in chosen]
        return Several(tuple(faults), tuple(chance.uniform(*_PAUSES) for _ in faults))

    return Kind("several at once", make, (0.0, 1.5), is_whole=True)
