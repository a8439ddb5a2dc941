"""What an executor's description, a step plan and a step result must be where they come from another process.

Only what a message shows by itself is checked here. `Slots` compares a plan with the sequences that it knows, and
`ScheduledStep` a result with its plan. Fields are named as in the protocol.
"""

from collections.abc import Iterable

import numpy as np

from quire.engine.adapter_names import MAX_DIGEST
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_COUNTER, MAX_INT32, MAX_LOGPROBS
from quire.engine.arrays import Int32Array
from quire.engine.block_table import GONE
from quire.engine.embeddings import PackedEmbeddings
from quire.engine.logprobs import PackedLogprobs, PackedPromptLogprobs
from quire.engine.sampling_validation import validate_sampling
from quire.engine.step import ExecutorInfo, SequenceStart, StepPlan, StepResult
from quire.engine.token_ids import check_ids
from quire.engine.validation import check_range

# One plan may skip so many numbers: a single wrong one cannot use up all that there are.
MAX_STEP_GAP = 2**32
_MAX_BLOCKS = 2**24
_MAX_BLOCK_SIZE = 2**16
_MAX_BATCH_SIZE = 2**16
_MAX_END_TOKENS = 2**10
_MAX_NAME = 256
_MAX_PROCESSORS = 256
_MAX_GROUPS = 256


def validate_info(info: ExecutorInfo) -> None:
    """Refuses an executor that no scheduler can work with.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_range("incarnation", len(info.incarnation), 1, _MAX_NAME, "characters")
    check_range("fingerprint", len(info.fingerprint), 1, _MAX_NAME, "characters")
    check_range("tokenizer_fingerprint", len(info.tokenizer_fingerprint), 0, _MAX_NAME, "characters")
    for field, value, largest in (
        ("vocab_size", info.vocab_size, MAX_INT32),
        ("max_model_len", info.max_model_len, MAX_INT32),
        ("num_blocks", info.num_blocks, _MAX_BLOCKS),
        ("block_size", info.block_size, _MAX_BLOCK_SIZE),
        ("max_batch_size", info.max_batch_size, _MAX_BATCH_SIZE),
    ):
        check_range(field, value, 1, largest)
    check_range("cache_windows", len(info.cache_windows), 0, _MAX_GROUPS, "groups")
    for window in info.cache_windows:
        check_range("cache_windows", window, 0, MAX_INT32)
    check_range("committed", info.committed, 0, MAX_COUNTER)
    check_range("committed_epoch", info.committed_epoch, 0, MAX_COUNTER)
    check_range("logits_processors", len(info.logits_processors), 0, _MAX_PROCESSORS, "names")
    for name in info.logits_processors:
        check_range("logits_processors", len(name), 1, _MAX_NAME, "characters")
    check_range("eos_token_ids", len(info.eos_token_ids), 0, _MAX_END_TOKENS, "tokens")
    for index, token_id in enumerate(info.eos_token_ids):
        check_range(f"eos_token_ids[{index}]", token_id, 0, info.vocab_size - 1)


def validate_plan(plan: StepPlan, info: ExecutorInfo, newest_step: int) -> None:
    """Refuses a plan that the executor must not even try.

    Args:
        newest_step: the highest number of a plan so far.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_range("step", plan.step, 1, min(newest_step + MAX_STEP_GAP, MAX_COUNTER))
    check_range("committed", plan.committed, 0, plan.step)
    _check_columns("append_blocks", plan.append_blocks, len(plan.append_slots), info)
    check_lengths("context_tokens", plan.context_tokens, "context_slots", plan.context_slots)
    if len(plan.copies):
        check_ids("copies", plan.copies.reshape(-1), info.num_blocks)
        # So that a plan copies no more than the pool holds.
        _check_distinct("copies", plan.copies[:, 1].tolist(), "must not copy to a block twice")
    if len(plan.context_tokens):
        check_ids("context_tokens", plan.context_tokens, info.max_model_len + 1)
    if plan.starts:
        _check_distinct("starts", (start.slot for start in plan.starts), "must not name a slot twice")
    for index, start in enumerate(plan.starts):
        _check_start(f"starts[{index}]", start, info)


def validate_result(result: StepResult, vocab_size: int) -> None:
    """Refuses a result whose rows are not tokens.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_lengths("token_ids", result.token_ids, "slots", result.slots)
    check_ids("token_ids", result.token_ids, vocab_size)
    if result.logprobs is not None:
        validate_logprobs(result.logprobs, vocab_size, result.slots)
    if result.prompt_logprobs is not None:
        validate_prompt_logprobs(result.prompt_logprobs, vocab_size)
    for failure in result.failures:
        if failure.slot not in result.slots:
            raise InvalidRequest("failures.slot", failure.slot, "must have sampled")
    if result.embeddings is not None:
        validate_embeddings(result.embeddings)


def validate_logprobs(logprobs: PackedLogprobs, vocab_size: int, owners: Int32Array) -> None:
    """Refuses log-probabilities that cannot be taken apart.

    Args:
        owners: who has got a token in the same message.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    strangers = ~np.isin(logprobs.owners, owners)
    if strangers.any():
        raise InvalidRequest("logprobs.owners", logprobs.owners[strangers].tolist(), "must be given a token, too")
    _check_entries("logprobs", logprobs, vocab_size)


def validate_prompt_logprobs(logprobs: PackedPromptLogprobs, vocab_size: int) -> None:
    """Refuses log-probabilities of prompts that cannot be taken apart.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    field, owners = "prompt_logprobs", logprobs.entries.owners
    for name, values in (("positions", logprobs.positions), ("ranks", logprobs.ranks)):
        check_lengths(f"{field}.{name}", values, f"{field}.entries.owners", owners)
    if len(owners):
        check_range(f"{field}.positions", int(logprobs.positions.min()), 1, MAX_INT32)
        check_range(f"{field}.ranks", int(logprobs.ranks.min()), 1, vocab_size)
    _check_entries(f"{field}.entries", logprobs.entries, vocab_size)


def validate_embeddings(embeddings: PackedEmbeddings) -> None:
    """Refuses embeddings that cannot be taken apart.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    count, length = len(embeddings.owners), len(embeddings.values)
    if not count or not length or length % count:
        limit = f"must be numbers for each of the {count} of embeddings.owners, at least one"
        raise InvalidRequest("embeddings.values", length, limit)


def _check_entries(field: str, logprobs: PackedLogprobs, vocab_size: int) -> None:
    check_lengths(f"{field}.num_top", logprobs.num_top, f"{field}.owners", logprobs.owners)
    check_ids(f"{field}.num_top", logprobs.num_top, min(MAX_LOGPROBS, vocab_size) + 1)
    num_top = int(logprobs.num_top.sum())
    for name, length, expected in (
        ("top_token_ids", len(logprobs.top_token_ids), num_top),
        ("logprobs", len(logprobs.logprobs), len(logprobs.owners) + num_top),
    ):
        if length != expected:
            raise InvalidRequest(f"{field}.{name}", length, f"must be {expected} numbers by {field}.num_top")
    check_ids(f"{field}.top_token_ids", logprobs.top_token_ids, vocab_size)
    # False for NaN. Rounding may end a little above zero.
    if not (logprobs.logprobs < 1).all():
        found = float(logprobs.logprobs.max())
        raise InvalidRequest(f"{field}.logprobs", found, "must be logarithms of probabilities")


def check_lengths(field: str, values: Int32Array, other_field: str, others: Int32Array) -> None:
    """Raises `InvalidRequest` for two arrays that belong together and are not equally long."""
    if len(values) != len(others):
        raise InvalidRequest(field, len(values), f"must be as many as {other_field}, {len(others)}")


def _check_start(field: str, start: SequenceStart, info: ExecutorInfo) -> None:
    check_range(f"{field}.slot", start.slot, 0, info.max_batch_size - 1)
    check_range(f"{field}.token_ids", len(start.token_ids), 1, info.max_model_len, "tokens")
    check_ids(f"{field}.token_ids", start.token_ids, info.vocab_size)
    check_range(f"{field}.num_computed", start.num_computed, 0, len(start.token_ids) - 1)
    _check_tables(f"{field}.block_table", start, info)
    check_range(f"{field}.num_prompt", start.num_prompt, 1, len(start.token_ids))
    check_range(f"{field}.adapter", len(start.adapter), 0, MAX_DIGEST, "characters")
    if start.sampling.seed is None:
        raise InvalidRequest(f"{field}.sampling.seed", None, "must be set")
    validate_sampling(start.sampling, info.vocab_size, field)


def _check_tables(field: str, start: SequenceStart, info: ExecutorInfo) -> None:
    """A table for each cache group, all equally long, without the blocks that no query to come sees."""
    groups = info.cache_groups
    longest, num_blocks = -(-info.max_model_len // info.block_size), len(start.block_table) // len(groups)
    check_range(field, num_blocks, -(-start.num_computed // info.block_size), longest, "blocks")
    _check_columns(field, start.block_table, num_blocks, info)
    first_seen = np.array([group.first_seen(start.num_computed, info.block_size) for group in groups])
    is_gone = (np.arange(num_blocks) < first_seen[:, None]).ravel() & (start.block_table == GONE)
    check_ids(field, np.where(is_gone, 0, start.block_table), info.num_blocks)


def _check_columns(field: str, blocks: Int32Array, num_rows: int, info: ExecutorInfo) -> None:
    num_groups = len(info.cache_groups)
    if len(blocks) != num_rows * num_groups:
        raise InvalidRequest(
            field, len(blocks), f"must be {num_groups} for each of {num_rows}, one for each cache group"
        )


def _check_distinct(field: str, numbers: Iterable[int], limit: str) -> None:
    seen = set()
    for number in numbers:
        if number in seen:
            raise InvalidRequest(field, number, limit)
        seen.add(number)
