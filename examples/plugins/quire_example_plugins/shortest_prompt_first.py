"""A capacity policy that starts short prompts first."""

from collections.abc import Iterable

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.sequence import Sequence

# Steps after which a sequence goes before all that came later, however long its prompt is.
MAX_WAIT = 200


class ShortestPromptFirst(GuaranteedNoEvict):
    """Starts the shortest prompt first; none waits behind shorter ones for more than `MAX_WAIT` steps."""

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        super().__init__(kv, generation)
        self._num_steps = 0
        self._since: dict[Sequence, int] = {}

    def begin_step(self, num_running: int) -> None:
        super().begin_step(num_running)
        self._num_steps += 1

    def order(self, waiting: Iterable[Sequence]) -> Iterable[Sequence]:
        self._since = {sequence: self._since.get(sequence, self._num_steps) for sequence in waiting}
        return sorted(self._since, key=self._urgency)

    def _urgency(self, sequence: Sequence) -> tuple[bool, int]:
        """Those that ran before or waited long, in the order in which they came; then the others by length."""
        is_early = sequence.was_started or self._num_steps - self._since[sequence] > MAX_WAIT
        return (False, 0) if is_early else (True, sequence.num_context)
