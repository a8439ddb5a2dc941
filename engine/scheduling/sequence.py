"""A sequence: one continuation of a request's prompt, as the scheduler follows it."""

from array import array
from enum import Enum, auto

from quire.engine.request import FinishReason, Request


class SequenceState(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()
    CONTEXT = auto()
    GENERATION = auto()
    FINISHED = auto()


class Sequence:
    """Everything the scheduler knows of one continuation.

        tokens   ├──── prompt ────┼── generated ──┤
        context  ├── known at start ──┤              computed in chunks, then generation begins
        blocks   [ 7 ][ 3 ][ 9 ][ 4 ]                position p lives in blocks[p // block_size]

    Attributes:
        request: what was asked for.
        holder: its name in the ledger, unique among all schedulers of a pool.
        tokens: prompt and generated token ids known so far.
        max_len: number of tokens at which it ends with LENGTH.
        num_context: tokens known when it (re)started; the context to compute.
        num_scheduled: context tokens computed or in flight, the cached prefix included.
        num_cached: tokens of the prompt found in the cache at the first start.
        blocks: its block table; the KV cache manager's.
        hashes: chained hashes of its full blocks, as far as computed; the KV cache manager's.
        num_published: leading blocks whose KV is complete and known to the prefix index.
        slot: the executor's slot, or -1.
        last_step: number of the last step with a row of it; its blocks stay until that step's result.
    """

    __slots__ = (
        "blocks",
        "finish_reason",
        "hashes",
        "holder",
        "last_step",
        "max_len",
        "num_cached",
        "num_context",
        "num_published",
        "num_scheduled",
        "request",
        "slot",
        "state",
        "stop_ids",
        "stop_token_id",
        "tokens",
    )

    def __init__(self, request: Request, holder: str, stop_ids: frozenset[int]) -> None:
        if request.params.max_tokens is None or request.params.seed is None:
            raise ValueError(f"request {request.request_id!r}: max_tokens and seed must be filled in before")
        self.request = request
        self.holder = holder
        self.stop_ids = stop_ids
        self.tokens = array("i", request.prompt.tobytes() + request.generated.tobytes())
        self.max_len = len(request.prompt) + request.params.max_tokens
        self.num_context = len(self.tokens)
        self.num_scheduled = 0
        self.num_cached = 0
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []
        self.num_published = 0
        self.slot = -1
        self.last_step = -1
        self.state = SequenceState.WAITING
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def num_context_left(self) -> int:
        """Context tokens that no step has been planned for."""
        return self.num_context - self.num_scheduled

    def finish(self, reason: FinishReason, stop_token_id: int | None = None) -> None:
        """Ends it; what it holds is freed later, when no step in flight can write it."""
        self.state = SequenceState.FINISHED
        self.finish_reason = reason
        self.stop_token_id = stop_token_id

    def restart(self) -> None:
        """Sends it back to the start with the tokens it has; it must hold nothing."""
        self.state = SequenceState.WAITING
        self.num_context = len(self.tokens)
        self.num_scheduled = 0
        self.num_published = 0
        self.slot = -1
        self.last_step = -1
