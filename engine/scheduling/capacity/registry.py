"""Capacity policies by name: Quire's own, and those that installed packages bring."""

from importlib.metadata import entry_points

from quire.engine.api.errors import StartupError
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.capacity.max_utilization import MaxUtilization
from quire.engine.scheduling.capacity.static_batch import StaticBatch

ENTRY_POINTS = "quire.capacity_policies"
OWN: dict[str, type[CapacityScheduler]] = {
    "GUARANTEED_NO_EVICT": GuaranteedNoEvict,
    "MAX_UTILIZATION": MaxUtilization,
    "STATIC_BATCH": StaticBatch,
}


def capacity_policy(name: str) -> type[CapacityScheduler]:
    """The policy of this name.

    Raises:
        StartupError: there is none, or the plug-in is not a `CapacityScheduler`.
    """
    if name in OWN:
        return OWN[name]
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in plugins:
        known = ", ".join([*OWN, *sorted(plugins)])
        raise StartupError(f"capacity_policy: must be one of {known}, got {name!r}")
    found = plugins[name].load()
    if not (isinstance(found, type) and issubclass(found, CapacityScheduler)):
        raise StartupError(f"capacity_policy: plug-in {name!r} is {found!r}, which is no CapacityScheduler")
    return found
