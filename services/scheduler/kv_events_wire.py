"""Changes of a pool as messages of quire.v1."""

from collections.abc import Iterator, Sequence

from quire.engine.resources.pool_change import PoolChange
from quire.engine.resources.prefix import hash_of
from quire.engine.resources.publication import Publication
from quire.v1 import kv_events_pb2 as pb

# Of one message: other work of the scheduler waits for less than a millisecond while it is made.
_MAX_BLOCKS = 64
_MEDIUM = pb.KV_MEDIUM_DEVICE


def change_to_proto(change: PoolChange) -> Iterator[pb.KVEventBatch]:
    """Messages of bounded size; `sequence` and `time` are left to who sends them."""
    for part in change.parts(_MAX_BLOCKS):
        events = [pb.KVEvent(cleared=pb.AllBlocksCleared())] if part.is_cleared else []
        events += [pb.KVEvent(stored=_stored(run, part.block_size)) for run in part.runs()]
        for removed in part.evicted():
            hashes = [hash_of(publication.name) for publication in removed]
            gone = pb.BlocksRemoved(block_hashes=hashes, medium=_MEDIUM, group=removed[0].group)
            events.append(pb.KVEvent(removed=gone))
        yield pb.KVEventBatch(pool=part.pool, events=events, is_partial=part.is_partial)


def _stored(run: Sequence[Publication], block_size: int) -> pb.BlocksStored:
    """Neither a salt nor what it guards: the parent of a first block is made of it, and the tokens are its tenant's."""
    first = run[0]
    message = pb.BlocksStored(
        block_hashes=[hash_of(publication.name) for publication in run],
        parent_hash=hash_of(first.parent) if first.depth else b"",
        block_size=block_size,
        medium=_MEDIUM,
        group=first.group,
    )
    for publication in run:
        if publication.tokens is not None and not publication.is_salted:
            message.token_ids.extend(publication.tokens)
    return message
