"""One executor as the scheduler service sees it, for as long as it is attached."""

from dataclasses import dataclass

from quire.engine.api.limits import ServingLimits
from quire.engine.loop import StepLoop
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence
from quire.engine.step import ExecutorInfo, limits_of

# What a running sequence weighs against context tokens: its share of every step to come.
TOKENS_PER_RUNNING = 16
# What weighs an adapter that is to be loaded first: it delays the request, and may take another's place.
TOKENS_PER_ADAPTER = 256


@dataclass(slots=True, eq=False)
class AttachedExecutor:
    """An attached executor with its scheduler and loop.

    Attributes:
        name: the executor's address.
        is_draining: it takes no new sequences and goes when those that run have ended.
    """

    name: str
    info: ExecutorInfo
    scheduler: Scheduler
    loop: StepLoop
    is_draining: bool = False

    @property
    def limits(self) -> ServingLimits:
        info = self.info
        return limits_of(info)

    def cost(self, sequence: Sequence) -> int:
        """Cost of the sequence on this executor, in context tokens: its own that are not cached, the load, and its
        adapter, unless that lies there."""
        scheduler = self.scheduler
        own = len(sequence.tokens) - scheduler.num_reusable(sequence)
        adapter = 0 if scheduler.has_adapter(sequence) else TOKENS_PER_ADAPTER
        return own + adapter + scheduler.num_context_tokens + TOKENS_PER_RUNNING * scheduler.num_running
