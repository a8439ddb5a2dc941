"""The scheduler's mirror of one pool: it picks blocks at once and keeps a record for the ledger."""

from collections import OrderedDict
from collections.abc import Iterable

from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction


class BlockPool:
    """Blocks by state, and the transaction that brings the ledger to the same state.

        free ──acquire──▶ held ──release──▶ cached (if published) or free
          ▲                ▲ └─share─┐        │
          └────evict───────┴─────────┴────────┘

    It trusts its caller, the KV cache manager; the ledger checks every change again.
    """

    def __init__(self, state: PoolState) -> None:
        """Takes over `state`, which must have passed the audit."""
        self._state = state
        state.cached = OrderedDict(sorted(state.cached.items(), key=lambda item: item[1]))
        self._cached: OrderedDict[int, int] = state.cached
        taken = state.refs.keys() | state.hashes.keys()
        # A stack: the lowest numbers first, the most recently freed before all.
        self._free = [block for block in reversed(range(state.num_blocks)) if block not in taken]
        self._rank = max(state.cached.values(), default=0)
        self._transaction = LedgerTransaction()

    @property
    def state(self) -> PoolState:
        """The books themselves, to be read only; what the ledger holds once the transaction is committed."""
        return self._state

    @property
    def num_blocks(self) -> int:
        return self._state.num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that can be acquired now: free ones, and cached ones by eviction."""
        return len(self._free) + len(self._cached)

    def find(self, name: bytes) -> int | None:
        """The block that holds the prefix of this hash."""
        return self._state.index.get(name)

    def is_cached(self, block: int) -> bool:
        """Whether nobody holds the block, so that sharing it makes one block less available."""
        return block in self._cached

    def acquire(self, holder: str) -> int:
        """A block for the holder alone, the least recently used cached one if none is free."""
        if not self._free:
            self._evict()
        block = self._free.pop()
        self._state.refs[block] = 1
        self._state.holds.setdefault(holder, {})[block] = None
        self._transaction.acquire.append((holder, block))
        return block

    def share(self, holder: str, block: int) -> None:
        """One more holder of a published block."""
        self._cached.pop(block, None)
        self._state.refs[block] = self._state.refs.get(block, 0) + 1
        self._state.holds.setdefault(holder, {})[block] = None
        self._transaction.share.append((holder, block))

    def publish(self, block: int, name: bytes) -> None:
        """Lets the held block be found by its hash, unless another block has the same content already."""
        if name in self._state.index:
            return
        self._state.hashes[block] = name
        self._state.index[name] = block
        self._transaction.publish.append((block, name))

    def release(self, holder: str, blocks: Iterable[int]) -> None:
        """The holder lets go of the blocks; the first in the order given will be evicted first."""
        holds = self._state.holds.get(holder, {})
        for block in blocks:
            del holds[block]
            self._rank += 1
            self._transaction.release.append((holder, block, self._rank))
            self._state.refs[block] -= 1
            if self._state.refs[block] == 0:
                del self._state.refs[block]
                if block in self._state.hashes:
                    self._cached[block] = self._rank
                else:
                    self._free.append(block)
        if not holds:
            self._state.holds.pop(holder, None)

    def take_transaction(self) -> LedgerTransaction:
        """Everything done since the last call."""
        transaction, self._transaction = self._transaction, LedgerTransaction()
        return transaction

    def _evict(self) -> None:
        block, _ = self._cached.popitem(last=False)
        del self._state.index[self._state.hashes.pop(block)]
        self._free.append(block)
        self._transaction.evict.append(block)
