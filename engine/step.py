"""What travels between scheduler and executor: a `StepPlan` down, a `StepResult` up.

A plan carries only what changed since the plan before it; the executor keeps the rest in its slots.
All arrays are int32.
"""

from dataclasses import dataclass
from enum import IntEnum

from quire.engine.api.errors import RequestError
from quire.engine.api.kv_cache_group import KVCacheGroup, groups_of
from quire.engine.api.limits import ServingLimits
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.trace_context import TraceContext
from quire.engine.arrays import Int32Array
from quire.engine.embeddings import PackedEmbeddings
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs


@dataclass(frozen=True, slots=True, eq=False)
class SequenceStart:
    """A sequence that takes a slot.

    Attributes:
        slot: index of the slot, below the executor's `max_batch_size`; whatever it held is gone.
        token_ids: everything known, shape (num_tokens,): the prompt and what was generated before.
        num_computed: how many leading tokens have their KV in `block_table` already; below num_tokens.
        block_table: block ids, shape (num_groups * num_blocks,): the tables of all cache groups behind each other. In
            each, position p lives in table[p // block_size]; -1 where no query to come sees the block.
        num_prompt: of the known tokens, those of the prompt, at least 1; the others were generated.
        sampling: with the seed drawn; `stop` and `max_tokens` are not looked at here.
        trace: the span that what is computed for it belongs to; None: nobody records it.
        adapter: digest of its adapter, which was loaded before; "": it has none.
    """

    slot: int
    token_ids: Int32Array
    num_computed: int
    block_table: Int32Array
    num_prompt: int
    sampling: SamplingParams
    trace: TraceContext | None = None
    adapter: str = ""

    @property
    def seed(self) -> int:
        """Raises `ValueError` if none was drawn."""
        if self.sampling.seed is None:
            raise ValueError(f"the sequence for slot {self.slot} has no seed")
        return self.sampling.seed


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """One step. The fields are applied in their order.

    Attributes:
        step: consecutive number of the step on this executor.
        copies: pairs (source, destination) of block ids, shape (n, 2), copied before anything is computed.
        starts: sequences that take a slot.
        append_slots, append_blocks: shape (n,) and (n * num_groups,): the next num_groups blocks go to the ends of slot
            append_slots[i]'s block tables, one to each.
        context_slots, context_tokens: shape (n,): slot context_slots[i] computes its next context_tokens[i]
            known tokens. The row that reaches the last known token samples the next.
        generation_slots: shape (n,): each feeds its newest token, which may still be on the device, and
            samples the next.
        committed: number of the last plan, up to this one, that changed blocks in the ledger.
    """

    step: int
    copies: Int32Array
    starts: tuple[SequenceStart, ...]
    append_slots: Int32Array
    append_blocks: Int32Array
    context_slots: Int32Array
    context_tokens: Int32Array
    generation_slots: Int32Array
    committed: int = 0


@dataclass(frozen=True, slots=True)
class SlotFailure:
    """A sequence that the executor cannot go on with, through its own request's fault.

    Attributes:
        slot: where it is; what it samples from now on is to be dropped.
        error: for the one who has sent the request.
    """

    slot: int
    error: RequestError


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What one step sampled.

    Attributes:
        step: the plan's number.
        slots, token_ids: shape (n,): the rows that sampled, in the plan's order, context before generation.
        compute_us: microseconds from the first kernel to the last.
        logprobs: of the rows whose sequences want them, owned by their slots, in the order of the rows; None: of none.
        prompt_logprobs: of the prompts' tokens that were computed, where sequences want them; owned by slots.
        failures: of rows that sampled; each may come again with later steps.
        embeddings: of prompts that ended with this step, where sequences want them; owned by slots.
    """

    step: int
    slots: Int32Array
    token_ids: Int32Array
    compute_us: int
    logprobs: PackedLogprobs | None = None
    prompt_logprobs: PackedPromptLogprobs | None = None
    embeddings: PackedEmbeddings | None = None
    failures: tuple[SlotFailure, ...] = ()


class DeviceKind(IntEnum):
    """What an executor computes on; values equal those of the protocol."""

    CPU = 1
    GPU = 2


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """Who an executor is and what it can hold.

    Attributes:
        incarnation: new at every start; whatever was known of an older one's pool is void.
        fingerprint: SHA-256 (hex) over model configuration and weights' headers.
        vocab_size: token ids are below this.
        max_model_len: tokens of prompt and generation together.
        num_blocks, block_size: the KV pool, in blocks and in tokens per block.
        max_batch_size: sequences that can run at once.
        eos_token_ids: tokens that end a sequence unless it ignores them.
        device: where it computes.
        logits_processors: names of those that requests may name.
        tokenizer_fingerprint: as of `engine.text.fingerprint`; "": its folder has no tokenizer.
        num_adapters: low-rank adapters that it can hold at once.
        cache_windows: sliding window of each cache group, 0: it sees everything; (): one group that does. A sequence
            has a block table in each.
        is_spare: it takes requests only while another executor is missing.
        committed: the highest `committed` of the plans that it has run: a ledger of before is not to be believed.
        committed_epoch: of the scheduler whose plan that was: nor is a ledger that a scheduler of before has written.
    """

    incarnation: str
    fingerprint: str
    vocab_size: int
    max_model_len: int
    num_blocks: int
    block_size: int
    max_batch_size: int
    eos_token_ids: tuple[int, ...]
    device: DeviceKind
    tokenizer_fingerprint: str = ""
    logits_processors: tuple[str, ...] = ()
    cache_windows: tuple[int, ...] = ()
    num_adapters: int = 0
    is_spare: bool = False
    committed: int = 0
    committed_epoch: int = 0

    @property
    def cache_groups(self) -> tuple[KVCacheGroup, ...]:
        return groups_of(self.cache_windows)


def limits_of(info: ExecutorInfo) -> ServingLimits:
    """Limits of a request for an executor."""
    return ServingLimits(
        info.vocab_size,
        info.max_model_len,
        info.num_blocks,
        info.block_size,
        frozenset(info.logits_processors),
        info.cache_groups,
    )
