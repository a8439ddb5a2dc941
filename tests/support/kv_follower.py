"""Consumers of KV events, written to the public formats alone: quire.v1 over gRPC, and vLLM's over ZeroMQ."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from quire.v1 import kv_events_pb2 as pb


@dataclass
class GrpcFollower:
    """What the pools hold, by the batches of one call.

    Attributes:
        blocks: pool → hashes of its blocks, those of further cache groups with the number of the group behind.
        tokens: pool → tokens of those blocks of which they were told.
        partial: pools of which the snapshot is not complete.
    """

    blocks: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    tokens: dict[str, dict[bytes, tuple[int, ...]]] = field(default_factory=lambda: defaultdict(dict))
    partial: set[str] = field(default_factory=set)
    sequence: int = 0
    num_removed: int = 0
    num_cleared: int = 0

    def apply(self, batch: pb.KVEventBatch) -> None:
        self.sequence += 1
        assert batch.sequence == self.sequence, "a batch is missing"
        if batch.is_partial:
            self.partial.add(batch.pool)
        else:
            self.partial.discard(batch.pool)
        for event in batch.events:
            match event.WhichOneof("event"):
                case "stored":
                    self._store(batch.pool, event.stored)
                case "removed":
                    removed = [in_group(name, event.removed.group) for name in event.removed.block_hashes]
                    assert self.blocks[batch.pool].issuperset(removed)
                    self.blocks[batch.pool].difference_update(removed)
                    self.num_removed += len(removed)
                    for name in removed:
                        self.tokens[batch.pool].pop(name, None)
                case "cleared":
                    self.blocks[batch.pool].clear()
                    self.tokens[batch.pool].clear()
                    self.num_cleared += 1

    def _store(self, pool: str, stored: pb.BlocksStored) -> None:
        assert (stored.medium, stored.adapter_id) == (pb.KV_MEDIUM_DEVICE, "")
        size, names = stored.block_size, list(stored.block_hashes)
        assert len(stored.token_ids) in (0, size * len(names))
        parent = stored.parent_hash
        for index, name in enumerate(names):
            assert len(name) == 16
            self.blocks[pool].add(in_group(name, stored.group))
            tokens = tuple(stored.token_ids[index * size : (index + 1) * size])
            if tokens:
                self.tokens[pool][in_group(name, stored.group)] = tokens
                assert not parent or name == chain(parent, tokens)
            parent = name


def in_group(name: bytes, group: int) -> bytes:
    """A hash as one of a cache group."""
    return name + bytes((group,)) if group else name


def chain(parent: bytes, tokens: Iterable[int]) -> bytes:
    """A block's hash as the proto defines it."""
    ids = b"".join(token.to_bytes(4, "little") for token in tokens)
    return blake2b(parent + ids, digest_size=16).digest()


# As `vllm.distributed.kv_events` defines them; array-like events, which every reader of the format takes.
class KVCacheEvent(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag=True):
    """Base of the events."""


class BlockStored(KVCacheEvent):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


@dataclass
class ZmqFollower:
    """What the pools hold, by rank; each number comes once and in order, if need be from a replay."""

    blocks: dict[int, set[int | bytes]] = field(default_factory=lambda: defaultdict(set))
    topics: dict[int, str] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    last: int | None = None

    def is_next(self, number: int) -> bool:
        """Whether nothing was missed since the last batch, or this is the first."""
        return self.last is None or number == self.last + 1

    def apply(self, number: int, payload: bytes, topic: bytes | None = None) -> None:
        assert self.is_next(number), f"batch {number} comes behind {self.last}"
        self.last = number
        batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
        assert batch.data_parallel_rank is not None
        if topic is not None:
            assert self.topics.setdefault(batch.data_parallel_rank, topic.decode()) == topic.decode()
        blocks = self.blocks[batch.data_parallel_rank]
        for event in batch.events:
            match event:
                case BlockStored():
                    assert len(event.token_ids) == event.block_size * len(event.block_hashes)
                    assert (event.medium, event.group_idx) == ("GPU", 0)
                    blocks.update(event.block_hashes)
                case BlockRemoved():
                    # Whoever joins may see some changes before it is told everything.
                    assert blocks.issuperset(event.block_hashes) or batch.data_parallel_rank not in self.begun
                    blocks.difference_update(event.block_hashes)
                case AllBlocksCleared():
                    blocks.clear()
                    self.begun.add(batch.data_parallel_rank)
