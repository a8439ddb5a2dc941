"""The scheduler's mirror of one pool: it picks blocks at once and keeps a record for the ledger."""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from quire.engine.api.errors import PluginError
from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY
from quire.engine.resources.eviction import EvictionOrder, restored
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix_tree import PrefixTree
from quire.engine.resources.publication import Entry, Publication
from quire.engine.resources.rank import make_rank, tick_of


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Keep:
    """How a block is kept once no sequence holds it.

    Attributes:
        priority: 0 to 100; lower is evicted first.
        expires: unix time in milliseconds after which the priority is the default one; 0: never.
    """

    priority: int = DEFAULT_RETENTION_PRIORITY
    expires: int = 0


KEEP = Keep()


class BlockPool:
    """Blocks by state, and the transaction that brings the ledger to the same state.

        free ──acquire──▶ held ──release──▶ cached (if published) or free
          ▲                ▲ └─share─┐        │
          └────evict───────┴─────────┴────────┘

    It trusts its caller, the KV cache manager; the ledger checks every change again.

    Args:
        state: the pool as the ledger has it, which must have passed the audit; taken over.
        clock: unix time in milliseconds.
        order: says which cached block goes next.
    """

    def __init__(
        self, state: PoolState, clock: Callable[[], int] = unix_ms, order: type[EvictionOrder] = EvictionOrder
    ) -> None:
        self._state = state
        self._order = restored(order(clock), state.cached, state.expires)
        self._tree = PrefixTree()
        self._published: dict[int, Entry] = {block: Publication(block, name) for block, name in state.hashes.items()}
        taken = state.refs.keys() | state.hashes.keys()
        # A stack: the lowest numbers first, the most recently freed before all.
        self._free = [block for block in reversed(range(state.num_blocks)) if block not in taken]
        self._tick = max(map(tick_of, state.cached.values()), default=0)
        self._num_evicted = 0
        # Blocks that never had a second holder since they were last available, and how many of them each holder has.
        self._sole: dict[int, str] = {}
        self._num_sole: Counter[str] = Counter()
        self._transaction = LedgerTransaction()

    @property
    def state(self) -> PoolState:
        """The books themselves, to be read only; what the ledger holds once the transaction is committed."""
        return self._state

    @property
    def order(self) -> EvictionOrder:
        """Which cached block goes next; the pool's own."""
        return self._order

    @property
    def num_blocks(self) -> int:
        return self._state.num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._order)

    @property
    def num_available(self) -> int:
        """Blocks that can be acquired now: free ones, and cached ones by eviction."""
        return len(self._free) + len(self._order)

    @property
    def num_evicted(self) -> int:
        """Blocks evicted so far."""
        return self._num_evicted

    @property
    def published(self) -> Mapping[int, Entry]:
        """Published blocks by number, to be read only."""
        return self._published

    def is_described(self, block: int) -> bool:
        """Whether the tokens of the published block are known; of another scheduler's they are not."""
        return self._published[block][3] is not None

    def find(self, name: bytes) -> int | None:
        """The block that holds the prefix of this hash."""
        return self._state.index.get(name)

    def find_partial(self, parent: bytes, tokens: "array[int]") -> tuple[int, int] | None:
        """(block, count): a published block behind the prefix `parent` that agrees with `count` leading tokens."""
        return self._tree.best(parent, tokens)

    def is_cached(self, block: int) -> bool:
        """Whether no sequence holds the block, so that sharing it makes one block less available."""
        return block in self._order

    def num_holders(self, block: int) -> int:
        return self._state.refs.get(block, 0)

    def sole_holder(self, block: int) -> str | None:
        """Who alone has held the block since it was last available."""
        return self._sole.get(block)

    def num_sole(self, holder: str) -> int:
        """Blocks that become available if the holder lets go of all: those that it never shared."""
        return self._num_sole[holder]

    def acquire(self, holder: str) -> int:
        """A block for the holder alone; if none is free, the cached one that goes next."""
        if not self._free:
            self._evict()
        block = self._free.pop()
        self._state.refs[block] = 1
        self._state.holds.setdefault(holder, {})[block] = None
        self._own(holder, block)
        self._transaction.acquire.append((holder, block))
        return block

    def share(self, holder: str, block: int) -> None:
        """Adds a holder to a published block."""
        self._order.remove(block)
        self._state.cached.pop(block, None)
        self._state.expires.pop(block, None)
        if block in self._state.refs:
            self._disown(block)
        else:
            self._own(holder, block)
        self._state.refs[block] = self._state.refs.get(block, 0) + 1
        self._state.holds.setdefault(holder, {})[block] = None
        self._transaction.share.append((holder, block))

    def publish(self, entry: Entry) -> None:
        """Lets the held block be found by its hash, unless another block has the same content already."""
        block, name, _, _, _, _ = entry
        if name in self._state.index:
            return
        self._state.hashes[block] = name
        self._state.index[name] = block
        self._published[block] = entry
        self._tree.add(entry)
        self._transaction.publish.append(entry)

    def describe(self, entry: Entry) -> None:
        """Adds parent and tokens of a block that a former scheduler published: whoever shares it knows them."""
        self._published[entry[0]] = entry
        self._tree.add(entry)
        self._transaction.described.append(entry)

    def release(self, holder: str, blocks: Iterable[tuple[int, Keep]]) -> None:
        """The holder lets go; of equal priority, the first in the order given will be evicted first."""
        state = self._state
        holds = state.holds.get(holder, {})
        for block, keep in blocks:
            del holds[block]
            self._tick += 1
            rank = make_rank(keep.priority, self._tick)
            self._transaction.release.append((holder, block, rank, keep.expires))
            state.refs[block] -= 1
            if state.refs[block] == 0:
                del state.refs[block]
                self._disown(block)
                if block in state.hashes:
                    self._cache(block, rank, keep.expires)
                else:
                    self._free.append(block)
        if not holds:
            state.holds.pop(holder, None)

    @property
    def has_changes(self) -> bool:
        """Whether the ledger does not know everything yet."""
        return bool(self._transaction)

    def take_transaction(self, step: int) -> LedgerTransaction:
        """All changes since the last call, to be committed before the plan of number `step` leaves."""
        transaction, self._transaction = self._transaction, LedgerTransaction()
        if transaction:
            transaction.step = self._state.step = step
        return transaction

    def _own(self, holder: str, block: int) -> None:
        self._sole[block] = holder
        self._num_sole[holder] += 1

    def _disown(self, block: int) -> None:
        holder = self._sole.pop(block, None)
        if holder is not None:
            self._num_sole[holder] -= 1
            if not self._num_sole[holder]:
                del self._num_sole[holder]

    def _cache(self, block: int, rank: int, expires: int) -> None:
        self._state.cached[block] = rank
        if expires:
            self._state.expires[block] = expires
        self._order.add(block, rank, expires)

    def _evict(self) -> None:
        block = self._order.pop()
        state = self._state
        if block not in state.cached:
            raise PluginError(self._order, f"broke the invariant: what is evicted is cached; block {block} is not")
        del state.cached[block], state.index[state.hashes.pop(block)]
        state.expires.pop(block, None)
        self._tree.remove(self._published.pop(block))
        self._free.append(block)
        self._num_evicted += 1
        self._transaction.evict.append(block)
