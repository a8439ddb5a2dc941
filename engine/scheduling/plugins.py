"""What of scheduling and cache management can be replaced: Quire's own classes by name, and plug-ins.

A plug-in comes from an installed package, by the name of an entry point, or as an argument of `LLM`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar, cast

from quire.engine.api.errors import StartupError
from quire.engine.config import SchedulerConfig
from quire.engine.resources.base import ResourceManager
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.capacity.max_utilization import MaxUtilization
from quire.engine.scheduling.capacity.static_batch import StaticBatch
from quire.engine.scheduling.micro_batch.base import MicroBatchScheduler
from quire.engine.scheduling.micro_batch.equal_progress import EqualProgress
from quire.engine.scheduling.micro_batch.first_come_first_served import FirstComeFirstServed
from quire.engine.scheduling.tenants.arrival_order import ArrivalOrder
from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.scheduling.tenants.token_shares import TokenShares
from quire.engine.step import ExecutorInfo

T = TypeVar("T")
ResourceFactory: TypeAlias = Callable[[SchedulerConfig, ExecutorInfo], ResourceManager]

CAPACITY_POLICIES: Final[Mapping[str, type[CapacityScheduler]]] = MappingProxyType(
    {
        "GUARANTEED_NO_EVICT": GuaranteedNoEvict,
        "MAX_UTILIZATION": MaxUtilization,
        "STATIC_BATCH": StaticBatch,
    }
)
MICRO_BATCH_POLICIES: Final[Mapping[str, type[MicroBatchScheduler]]] = MappingProxyType(
    {
        "FIRST_COME_FIRST_SERVED": FirstComeFirstServed,
        "EQUAL_PROGRESS": EqualProgress,
    }
)
TENANT_POLICIES: Final[Mapping[str, type[TenantPolicy]]] = MappingProxyType(
    {
        "TOKEN_SHARES": TokenShares,
        "ARRIVAL_ORDER": ArrivalOrder,
    }
)
KV_CACHE_MANAGERS: Final[Mapping[str, type[KVCacheManager]]] = MappingProxyType({"PAGED": KVCacheManager})


@dataclass(frozen=True)
class Plugins:
    """What schedules and manages resources; None: what the settings name.

    Attributes:
        capacity_scheduler: who may hold KV blocks.
        micro_batch_scheduler: who runs in a step.
        tenant_policy: whose turn it is among tenants.
        kv_cache_manager: which blocks a sequence gets, which it finds in the cache, and how long they stay there.
        resource_managers: further resources beside slots and KV blocks, made with the scheduler's settings and the
            executor's description; behind those that the settings name.
    """

    capacity_scheduler: type[CapacityScheduler] | None = None
    micro_batch_scheduler: type[MicroBatchScheduler] | None = None
    tenant_policy: type[TenantPolicy] | None = None
    kv_cache_manager: type[KVCacheManager] | None = None
    resource_managers: tuple[ResourceFactory, ...] = ()


@dataclass(frozen=True)
class Components:
    """`Plugins` with nothing left open; the attributes are the same."""

    capacity_scheduler: type[CapacityScheduler]
    micro_batch_scheduler: type[MicroBatchScheduler]
    tenant_policy: type[TenantPolicy]
    kv_cache_manager: type[KVCacheManager]
    resource_managers: tuple[ResourceFactory, ...]


NO_PLUGINS: Final = Plugins()


def components(config: SchedulerConfig, plugins: Plugins = NO_PLUGINS) -> Components:
    """The classes that the arguments give, or else those that the settings name.

    Raises:
        StartupError: there is no plug-in of a name, or it is of another kind.
    """
    return Components(
        plugins.capacity_scheduler
        or _find("capacity_policy", config.capacity_policy, CAPACITY_POLICIES, CapacityScheduler),
        plugins.micro_batch_scheduler
        or _find("micro_batch_policy", config.micro_batch_policy, MICRO_BATCH_POLICIES, MicroBatchScheduler),
        plugins.tenant_policy or _find("tenant_policy", config.tenant_policy, TENANT_POLICIES, TenantPolicy),
        plugins.kv_cache_manager
        or _find("kv_cache_manager", config.kv_cache_manager, KV_CACHE_MANAGERS, KVCacheManager),
        (
            *(_find("resource_managers", name, {}, ResourceManager) for name in config.resource_managers),
            *plugins.resource_managers,
        ),
    )


def group_of(setting: str) -> str:
    """The group of entry points whose names a setting takes, such as "quire.capacity_policies"."""
    plural = setting.removesuffix("y") + "ies" if setting.endswith("y") else setting.removesuffix("s") + "s"
    return f"quire.{plural}"


def _find(setting: str, name: str, own: Mapping[str, type[T]], base: type) -> type[T]:
    if name in own:
        return own[name]
    installed = {entry.name: entry for entry in entry_points(group=group_of(setting))}
    if name not in installed:
        known = ", ".join([*own, *sorted(installed)]) or "the name of a plug-in, and none is installed"
        raise StartupError(f"{setting}: must be one of {known}, got {name!r}")
    try:
        found = installed[name].load()
    except Exception as error:
        raise StartupError(f"{setting}: plug-in {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise StartupError(f"{setting}: plug-in {name!r} is {found!r}, which is no {base.__name__}")
    return cast(type[T], found)
