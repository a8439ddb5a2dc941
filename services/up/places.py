"""Where the services of one machine are."""

from dataclasses import dataclass
from typing import Self

from quire.services.common.address import joined
from quire.services.up.ports import LOOPBACK, free_ports, reachable
from quire.services.up.settings import UpSettings


@dataclass(frozen=True, slots=True)
class Places:
    """Chosen once for a stack: processes come and go there.

    Attributes:
        redis: URL.
        redis_port: of a private one; None: it is somebody else's.
        frontend_listen, http_listen: where the frontend listens.
        frontend, http: where this machine reaches it.
        schedulers: "host:port" of the first one, and of the standby.
        executors, spares: "host:port" of each.
        metrics: the first scheduler's /metrics, the executors', then the standby's; empty: they have none.
    """

    redis: str
    redis_port: int | None
    frontend_listen: str
    http_listen: str
    frontend: str
    http: str
    schedulers: tuple[str, ...]
    executors: tuple[str, ...]
    spares: tuple[str, ...]
    metrics: tuple[str, ...]

    @classmethod
    def choose(cls, settings: UpSettings) -> Self:
        """Free ports for all that are not given."""
        free = free_ports()
        redis_port = None if settings.redis else next(free)
        frontend, http = settings.frontend_port or next(free), settings.http_port or next(free)
        schedulers = [settings.scheduler_port or next(free), *([next(free)] if settings.standby else [])]
        first = settings.executor_port
        executors = [first + i if first else next(free) for i in range(settings.num_executors)]
        metrics = [port or next(free) for port in settings.ports_of_metrics]
        return cls(
            redis=settings.redis or f"redis://{LOOPBACK}:{redis_port}/0",
            redis_port=redis_port,
            frontend_listen=joined(settings.host, frontend),
            http_listen=joined(settings.host, http),
            frontend=joined(reachable(settings.host), frontend),
            http=joined(reachable(settings.host), http),
            schedulers=_on_loopback(schedulers),
            executors=_on_loopback(executors),
            spares=_on_loopback([next(free) for _ in range(settings.spare_executors)]),
            metrics=_on_loopback(metrics),
        )


def _on_loopback(ports: list[int]) -> tuple[str, ...]:
    return tuple(f"{LOOPBACK}:{port}" for port in ports)
