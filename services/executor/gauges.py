"""What is so now: set when metrics are asked for."""

from quire.engine.api.version import __version__
from quire.engine.executor import Executor
from quire.services.common.metrics.meter import Meter
from quire.services.executor import metrics
from quire.services.executor.servicer import ExecutorServicer


class Gauges:
    """Of an executor and of the scheduler that drives it."""

    def __init__(self, meter: Meter, model: str, executor: Executor, servicer: ExecutorServicer) -> None:
        self._meter = meter
        self._executor = executor
        self._servicer = servicer
        meter.value(metrics.BUILD_INFO, __version__, model, str(executor.device), executor.dtype).value = 1
        meter.value(metrics.KV_CAPACITY).value = executor.info.num_blocks
        meter.value(metrics.KV_BYTES).value = executor.kv_bytes

    def refresh(self) -> None:
        """Sets what changes."""
        self._meter.value(metrics.ATTACHED).value = int(self._servicer.is_attached)
        self._meter.value(metrics.EPOCH).value = self._servicer.epoch
        for state, size in self._executor.device_memory().items():
            self._meter.value(metrics.DEVICE_MEMORY, state).value = size
