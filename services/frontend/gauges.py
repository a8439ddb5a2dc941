"""What is so now: set when metrics are asked for."""

import time

from quire.services.common.metrics.meter import Meter
from quire.services.frontend import metrics, vllm_metrics
from quire.services.frontend.http.server import HttpServer
from quire.services.frontend.scheduler_link import SchedulerLink


class Gauges:
    """Of a frontend, and what the scheduler says of itself.

    Args:
        http: the server of the HTTP API; None: there is none.
        has_aliases: whether vLLM's names are exported, too.
    """

    def __init__(self, meter: Meter, link: SchedulerLink, http: HttpServer | None, has_aliases: bool) -> None:
        self._meter = meter
        self._link = link
        self._http = http
        self._has_aliases = has_aliases

    def refresh(self) -> None:
        """Sets all; while no scheduler is connected, nothing waits or runs."""
        value, link, load = self._meter.value, self._link, self._link.load
        value(metrics.OPEN).value = link.num_requests
        value(metrics.HTTP_CONNECTIONS).value = 0 if self._http is None else self._http.num_connections
        value(metrics.SERVING).value = int(link.not_serving_reason is None)
        value(metrics.EXECUTORS).value = link.state.num_executors
        value(metrics.WAITING).value = load.num_waiting
        value(metrics.RUNNING).value = load.num_running
        value(metrics.KV_USAGE).value = load.num_held / load.num_blocks if load.num_blocks else 0.0
        value(metrics.PAUSES).value = load.num_pauses
        if self._has_aliases:
            for metric in vllm_metrics.METRICS:
                self._meter.clear(metric)
            sizes = str(link.state.block_size), str(link.state.num_blocks)
            value(vllm_metrics.CACHE_CONFIG, *sizes).value = 1
            adapters = (",".join(sorted(names)) for names in link.adapters_in_use())
            value(vllm_metrics.LORA_INFO, str(link.state.num_adapters), *adapters).value = time.time()
