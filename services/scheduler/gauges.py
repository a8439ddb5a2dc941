"""What is so now, or was counted elsewhere: set when metrics are asked for."""

from quire.services.common.metrics.meter import Meter
from quire.services.scheduler import metrics
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.leadership import Leadership
from quire.services.scheduler.meter import SchedulerMeter


class Gauges:
    """Of the dispatcher that leads and its executors; a standby has none."""

    def __init__(self, meter: Meter, measuring: SchedulerMeter, leadership: Leadership) -> None:
        self._meter = meter
        self._measuring = measuring
        self._leadership = leadership

    def refresh(self) -> None:
        """Sets all; an executor that is not attached has none."""
        dispatcher, value = self._leadership.leading, self._meter.value
        for metric in _OF_ATTACHED:
            self._meter.clear(metric)
        if dispatcher is None:
            for metric, *labels in _OF_ALL:
                value(metric, *labels).value = 0
            return
        self._measuring.retain(dispatcher.expected)
        value(metrics.EPOCH).value = dispatcher.epoch
        value(metrics.FRONTENDS).value = dispatcher.num_frontends
        num_draining = sum(executor.is_draining for executor in dispatcher.executors)
        value(metrics.EXECUTORS, "draining").value = num_draining
        value(metrics.EXECUTORS, "serving").value = dispatcher.num_serving
        value(metrics.EXECUTORS, "spare").value = len(dispatcher.executors) - num_draining - dispatcher.num_serving
        for executor in dispatcher.executors:
            self._set(executor)

    def _set(self, executor: AttachedExecutor) -> None:
        name, statistics = executor.name, executor.scheduler.statistics
        for metric, value in (
            (metrics.WAITING, statistics.num_waiting),
            (metrics.RUNNING, statistics.num_running),
            (metrics.MAX_RUNNING, executor.info.max_batch_size),
            (metrics.QUEUE_ROOM, executor.scheduler.queue_room),
            (metrics.WAITING_TOKENS, executor.scheduler.num_context_tokens),
            (metrics.KV_CAPACITY, statistics.num_blocks),
            (metrics.KV_USAGE, statistics.num_held / statistics.num_blocks),
            (metrics.CACHE_QUERIES, statistics.num_context_tokens),
            (metrics.CACHE_HITS, statistics.num_reused_tokens + statistics.num_copied_tokens),
            (metrics.EVICTED, statistics.num_evicted),
            (metrics.PAUSES, statistics.num_pauses),
        ):
            self._meter.value(metric, name).value = value
        for state, count in (
            ("free", statistics.num_free),
            ("cached", statistics.num_cached),
            ("held", statistics.num_held),
        ):
            self._meter.value(metrics.KV_BLOCKS, name, state).value = count


_OF_ALL = (
    *((metrics.EPOCH,), (metrics.FRONTENDS,)),
    *((metrics.EXECUTORS, "draining"), (metrics.EXECUTORS, "serving"), (metrics.EXECUTORS, "spare")),
)
_OF_ATTACHED = (
    *(metrics.WAITING, metrics.RUNNING, metrics.MAX_RUNNING, metrics.QUEUE_ROOM, metrics.WAITING_TOKENS),
    *(metrics.KV_CAPACITY, metrics.KV_BLOCKS, metrics.KV_USAGE),
    *(metrics.CACHE_QUERIES, metrics.CACHE_HITS, metrics.EVICTED, metrics.PAUSES),
)
