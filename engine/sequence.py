"""A sequence: one continuation of a request's prompt, as the scheduler follows it."""

from array import array
from enum import Enum, auto
from math import inf

from quire.engine.api.completion import FinishReason
from quire.engine.api.pooling import Pooling
from quire.engine.block_table import BlockTable
from quire.engine.open_request import Finish
from quire.engine.request import Request


class SequenceState(Enum):
    """Where a sequence is in its life.

    WAITING ──▶ CONTEXT ──▶ GENERATION ──▶ FINISHED
       ▲           └────┬────────┘
       └─── PAUSING ◀───┘     its blocks stay until the steps in flight are over
    """

    WAITING = auto()
    CONTEXT = auto()
    GENERATION = auto()
    PAUSING = auto()
    FINISHED = auto()


class Sequence:
    """Everything the scheduler knows of one continuation.

        tokens   ├──── prompt ────┼── generated ──┤
        context  ├── known at start ──┤              computed in chunks, then generation begins
        tables   [ 7 ][ 3 ][ 9 ][ 4 ]                where positions live; one for each cache group

    Attributes:
        request: what was asked for.
        stop_ids: tokens that end it.
        tokens: prompt and generated token ids known so far.
        max_len: number of tokens at which it ends with LENGTH.
        num_context: tokens known when it (re)started; the context to compute.
        num_scheduled: context tokens computed or in flight, those found in the cache included.
        num_cached: tokens of the prompt found in the cache at the first start.
        arrived: when it was queued first, in seconds of the scheduler's monotonic clock.
        deadline: until when somebody waits for it, on the same clock.
        queue_seconds: from then to its first start.
        trace: the span that what executors do for it belongs to, if it is recorded: its caller's, or one below.
        was_started: it held resources before, so it goes before those that never did.
        num_computed: context tokens whose step's result has come since it (re)started.
        num_faults: executors lost in a row while it ran and made no progress. A request that is submitted again after
            the scheduler's death begins at 0.
        num_passed: sequences that came later and started before it.
        furthest: tokens known and context computed at the last loss that it had got past.
        holder: its name in the pool's ledger, a number that grows from start to start.
        slot: the executor's slot, or -1.
        tables, hashes, num_published, num_reserved, num_held: the KV cache manager's: the block tables, all equally
            long; chained hashes of full blocks, as far as computed; leading blocks that the prefix index has been told;
            blocks set aside in all, and held.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "finish_reason",
        "furthest",
        "hashes",
        "holder",
        "max_len",
        "num_cached",
        "num_computed",
        "num_context",
        "num_faults",
        "num_held",
        "num_passed",
        "num_published",
        "num_reserved",
        "num_scheduled",
        "queue_seconds",
        "request",
        "slot",
        "state",
        "stop_ids",
        "stop_token_id",
        "tables",
        "tokens",
        "trace",
        "was_started",
    )

    def __init__(self, request: Request, eos_token_ids: tuple[int, ...]) -> None:
        if request.params.max_tokens is None or request.params.seed is None:
            raise ValueError(f"request {request.request_id!r}: max_tokens and seed must be filled in before")
        self.request = request
        eos = () if request.params.ignore_eos else eos_token_ids
        self.stop_ids = frozenset((*request.params.stop_token_ids, *eos))
        self.tokens = array("i", request.prompt.tobytes() + request.generated.tobytes())
        self.max_len = len(request.prompt) + request.params.max_tokens
        self.num_context = len(self.tokens)
        self.num_scheduled = 0
        self.num_computed = 0
        self.furthest = (self.num_context, 0)
        self.num_cached = 0
        self.arrived = 0.0
        self.deadline = inf
        self.queue_seconds = 0.0
        self.was_started = False
        trace = request.options.trace
        self.trace = trace if trace is not None and trace.is_sampled else None
        self.num_faults = 0
        self.num_passed = 0
        self.holder = ""
        self.slot = -1
        self.tables: list[BlockTable] = []
        self.hashes: list[bytes] = []
        self.num_published = 0
        self.num_reserved = 0
        self.num_held = 0
        self.state = SequenceState.WAITING
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None
        # A request submitted again after a fault may come with all its tokens.
        self.finish_if_complete()

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def has_generated(self) -> bool:
        """Whether tokens of its answer are known."""
        return len(self.tokens) > self.num_prompt

    @property
    def num_blocks(self) -> int:
        """Length of its block tables; some of a window's blocks are gone."""
        return len(self.tables[0].blocks) if self.tables else 0

    @property
    def reuses_cache(self) -> bool:
        """Whether its prefix may be taken from the cache; a prompt that is scored or embedded is computed whole."""
        params = self.request.params
        is_read = params.prompt_logprobs is not None or params.pooling is not Pooling.NONE
        return not (is_read or self.request.options.cache.opt_out)

    @property
    def num_context_left(self) -> int:
        """Context tokens that no step has been planned for."""
        return self.num_context - self.num_scheduled

    @property
    def is_finished(self) -> bool:
        return self.state is SequenceState.FINISHED

    @property
    def outcome(self) -> Finish:
        """How it ended.

        Raises:
            ValueError: it has not.
        """
        if self.finish_reason is None:
            raise ValueError(f"sequence of request {self.request.request_id!r} has not ended")
        return Finish(self.finish_reason, self.stop_token_id)

    def finish(self, reason: FinishReason, stop_token_id: int | None = None) -> None:
        """Ends it; what it holds is freed later, when no step in flight can write it."""
        self.state = SequenceState.FINISHED
        self.finish_reason = reason
        self.stop_token_id = stop_token_id

    @property
    def is_suspect(self) -> bool:
        """Whether it has got no further since an executor was lost, of which it may be the cause."""
        return self.num_faults > 0 and (len(self.tokens), self.num_computed) <= self.furthest

    def lose_executor(self) -> None:
        """The executor that it ran on was lost; that counts against it unless it got further than ever before."""
        reached = (len(self.tokens), self.num_computed)
        self.num_faults = 0 if reached > self.furthest else self.num_faults + 1
        self.furthest = max(self.furthest, reached)

    def restart(self) -> None:
        """Sends it back to the start with the tokens it has; it must hold nothing."""
        self.state = SequenceState.WAITING
        self.num_context = len(self.tokens)
        self.num_scheduled = 0
        self.num_computed = 0
        self.num_published = 0
        self.num_reserved = 0
        self.num_passed = 0

    def finish_if_complete(self) -> None:
        """Ends it if its last generated token ends it: a stop, or the last of its length."""
        if self.has_generated and self.tokens[-1] in self.stop_ids:
            self.finish(FinishReason.STOP, self.tokens[-1])
        elif len(self.tokens) >= self.max_len:
            self.finish(FinishReason.LENGTH)
