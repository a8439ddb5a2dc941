"""The `AdapterManager`: which adapters lie on the executor, and who uses them."""

from collections import Counter, OrderedDict

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest
from quire.engine.preparation import AdapterPreparation
from quire.engine.request import Request
from quire.engine.resources.base import ResourceManager
from quire.engine.sequence import Sequence


class AdapterManager(ResourceManager):
    """A sequence with an adapter waits until that lies in one of the executor's places. Others pass it meanwhile.

    An adapter takes a free place, or that of the least recently used one of those that no running sequence has.

    Args:
        num_places: of the executor.
    """

    def __init__(self, num_places: int) -> None:
        self._num_places = num_places
        self._free = list(reversed(range(num_places)))
        # By digest; of the ready ones, the latest used is the last.
        self._ready: OrderedDict[str, int] = OrderedDict()
        self._loading: dict[str, int] = {}
        self._digests: dict[Sequence, str] = {}
        self._num_users: Counter[str] = Counter()
        self._to_load: list[AdapterPreparation] = []

    @property
    def num_ready(self) -> int:
        """Adapters that lie on the executor."""
        return len(self._ready)

    def has(self, adapter: Adapter) -> bool:
        """Whether it lies there."""
        return adapter.digest in self._ready

    def validate(self, request: Request) -> None:
        if request.adapter is not None and not self._num_places:
            limit = "must be left out: the executor takes no adapters (max_adapters is 0)"
            raise InvalidRequest("adapter", request.adapter.name, limit)

    def can_start(self, sequence: Sequence) -> bool:
        adapter = sequence.request.adapter
        if adapter is None:
            return True
        if adapter.digest in self._ready:
            self._ready.move_to_end(adapter.digest)
            return True
        if adapter.digest not in self._loading and (place := self._take_place()) is not None:
            self._loading[adapter.digest] = place
            self._to_load.append(AdapterPreparation(adapter, place))
        return False

    def start(self, sequence: Sequence) -> None:
        if (adapter := sequence.request.adapter) is not None:
            self._digests[sequence] = adapter.digest
            self._num_users[adapter.digest] += 1

    def free_resources(self, sequence: Sequence) -> None:
        if (digest := self._digests.pop(sequence, None)) is not None:
            self._num_users[digest] -= 1
            if not self._num_users[digest]:
                del self._num_users[digest]

    def take(self) -> list[AdapterPreparation]:
        """What the executor has not been asked for yet."""
        taken, self._to_load = self._to_load, []
        return taken

    def answer(self, preparation: AdapterPreparation, *, is_ready: bool) -> None:
        """The executor has loaded it, or cannot."""
        digest = preparation.adapter.digest
        del self._loading[digest]
        if is_ready:
            self._ready[digest] = preparation.place
        else:
            self._free.append(preparation.place)

    def _take_place(self) -> int | None:
        if self._free:
            return self._free.pop()
        unused = next((digest for digest in self._ready if digest not in self._num_users), None)
        return None if unused is None else self._ready.pop(unused)
