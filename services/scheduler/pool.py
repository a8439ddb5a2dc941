"""One executor as the scheduler service sees it, for as long as it is attached."""

from dataclasses import dataclass

from quire.engine.loop import StepLoop
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.step import ExecutorInfo
from quire.engine.validation import ServingLimits


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """An attached executor with its scheduler and loop.

    Attributes:
        name: the executor's address.
    """

    name: str
    info: ExecutorInfo
    scheduler: Scheduler
    loop: StepLoop

    @property
    def limits(self) -> ServingLimits:
        info = self.info
        return ServingLimits(info.vocab_size, info.max_model_len, info.num_blocks, info.block_size)

    @property
    def load(self) -> int:
        """Sequences that wait or run here."""
        return self.scheduler.num_waiting + self.scheduler.num_running
