"""The state of one pool's blocks, and the rules by which a transaction may change it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from quire.engine.api.errors import LedgerConflict
from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY
from quire.engine.resources.holder import split_holder
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix import group_of
from quire.engine.resources.rank import make_rank, tick_of

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """Which pool this is; a pool of another identity under the same name is void.

    Attributes:
        name: the executor's address, or any name that stays the same when it restarts.
        incarnation: new at every start of the executor.
        fingerprint: of the model.
        num_blocks, block_size: blocks, and tokens per block.
        windows: sliding window of each cache group, 0: it sees everything; (): one group that does.
    """

    name: str
    incarnation: str
    fingerprint: str
    num_blocks: int
    block_size: int
    windows: tuple[int, ...] = ()

    @property
    def num_groups(self) -> int:
        """Cache groups: a block is of that of its holders, and of its hash."""
        return len(self.windows) or 1


@dataclass(slots=True)
class PoolState:
    """Every block is held (it has holders), cached (published, no holder) or free (neither).

    A holder and a hash each say the cache group that they are of, see holder.py and prefix.py.

    Attributes:
        num_blocks: blocks are numbered from 0 to this, exclusive.
        holds: holder → its blocks; values of the inner dict are unused, its order is that of acquisition.
        refs: held block → number of holders.
        hashes: published block → hash; `index` is its inverse.
        cached: cached block → rank, see rank.py; the lowest is evicted first.
        expires: cached block → when its retention priority is void, in milliseconds since 1970, if ever.
        step: number of the last plan that left on these books.
        step_epoch: of the scheduler that wrote the step; not compared, as it is not of the blocks.
    """

    num_blocks: int
    holds: dict[str, dict[int, None]] = field(default_factory=dict)
    refs: dict[int, int] = field(default_factory=dict)
    hashes: dict[int, bytes] = field(default_factory=dict)
    index: dict[bytes, int] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    expires: dict[int, int] = field(default_factory=dict)
    step: int = 0
    step_epoch: int = field(default=0, compare=False)

    def apply(self, tx: LedgerTransaction) -> None:
        """Checks the whole transaction on an overlay of the blocks it names, then stores the overlay.

        Raises:
            LedgerConflict: a step contradicts the state; nothing was changed.
        """
        overlay = _Overlay(self)
        overlay.replay(tx)
        overlay.store()
        self.step = tx.step or self.step

    def release_all(self) -> None:
        """Drops every holder: published blocks become cached, by number behind all others of the default priority;
        the rest becomes free.
        """
        tick = max(map(tick_of, self.cached.values()), default=0)
        for block in sorted(self.refs):
            if block in self.hashes:
                tick += 1
                self.cached[block] = make_rank(DEFAULT_RETENTION_PRIORITY, tick)
        self.refs.clear()
        self.holds.clear()


class _Overlay:
    """Pending values of the blocks that a transaction names; None or absent as in the state below."""

    def __init__(self, state: PoolState) -> None:
        self.state = state
        self.refs: dict[int, int] = {}
        self.hashes: dict[int, bytes | None] = {}
        self.index: dict[bytes, int | None] = {}
        self.ranks: dict[int, int | None] = {}
        self.expires: dict[int, int | None] = {}
        self.holds: dict[tuple[str, int], bool] = {}

    def replay(self, tx: LedgerTransaction) -> None:
        for block, name, *_ in tx.publish:
            self._require(self._refs(block) > 0, "publish", block, "not held")
            self._require(self._hash(block) is None, "publish", block, "published already")
            self._require(self._find(name) is None, "publish", block, "its hash names another block")
            self.hashes[block], self.index[name] = name, block
        for holder, block, rank, expires in tx.release:
            self._require(self._held_by(holder, block), "release", block, f"not held by {holder}")
            self.holds[holder, block] = False
            self.refs[block] = self._refs(block) - 1
            if self.refs[block] == 0 and self._hash(block) is not None:
                self.ranks[block] = rank
                self.expires[block] = expires or None
        for block in tx.evict:
            evicted = self._hash(block)
            self._require(evicted is not None and self._refs(block) == 0, "evict", block, "not cached")
            if evicted is not None:
                self.hashes[block], self.index[evicted] = None, None
                self.ranks[block] = self.expires[block] = None
        for holder, block in tx.share:
            shared = self._hash(block)
            self._require(shared is not None, "share", block, "not published")
            self._require(group_of(shared or b"") == split_holder(holder)[1], "share", block, "of another cache group")
            self._hold(holder, block, "share")
            self.ranks[block] = self.expires[block] = None
        for holder, block in tx.acquire:
            self._require(0 <= block < self.state.num_blocks, "acquire", block, "no such block")
            self._require(self._refs(block) == 0 and self._hash(block) is None, "acquire", block, "not free")
            self._hold(holder, block, "acquire")

    def store(self) -> None:
        state = self.state
        _store(state.refs, {block: refs or None for block, refs in self.refs.items()})
        _store(state.hashes, self.hashes)
        _store(state.index, self.index)
        _store(state.cached, self.ranks)
        _store(state.expires, self.expires)
        for (holder, block), held in self.holds.items():
            if held:
                state.holds.setdefault(holder, {})[block] = None
            elif blocks := state.holds.get(holder):
                blocks.pop(block, None)
                if not blocks:
                    del state.holds[holder]

    def _hold(self, holder: str, block: int, action: str) -> None:
        self._require(not self._held_by(holder, block), action, block, f"held by {holder} already")
        self.holds[holder, block] = True
        self.refs[block] = self._refs(block) + 1

    def _refs(self, block: int) -> int:
        return self.refs[block] if block in self.refs else self.state.refs.get(block, 0)

    def _hash(self, block: int) -> bytes | None:
        return self.hashes[block] if block in self.hashes else self.state.hashes.get(block)

    def _find(self, name: bytes) -> int | None:
        return self.index[name] if name in self.index else self.state.index.get(name)

    def _held_by(self, holder: str, block: int) -> bool:
        pending = self.holds.get((holder, block))
        return block in self.state.holds.get(holder, {}) if pending is None else pending

    @staticmethod
    def _require(condition: bool, action: str, block: int, reason: str) -> None:
        if not condition:
            raise LedgerConflict(f"cannot {action} block {block}: {reason}")


def _store(target: dict[_K, _V], pending: Mapping[_K, _V | None]) -> None:
    for key, value in pending.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
