"""What a request must be to be accepted: one table of limits, and the sums that prompt and pool set.

It knows neither text nor transport. Fields are named as in the protocol: every entrance refuses alike.
"""

import re
import secrets
from dataclasses import replace
from numbers import Integral

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import (
    MAX_INT32,
    MAX_PRIORITY,
    MAX_RETENTION_PRIORITY,
    MAX_RETENTIONS,
    MAX_SALT_BYTES,
    MAX_TENANT_WEIGHT,
    TENANT_PATTERN,
    ServingLimits,
)
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import DEFAULT_MAX_TOKENS, SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.sampling_validation import check_kind, validate_sampling
from quire.engine.token_ids import check_ids

_TENANT = re.compile(TENANT_PATTERN)


def fill_defaults(
    params: SamplingParams, num_prompt: int, limits: ServingLimits, *, fills_context: bool = False
) -> SamplingParams:
    """Fills `max_tokens` and `seed` where unset; a prompt that leaves no room is left to `validate`.

    Args:
        fills_context: `max_tokens` is what context and pool leave; else no more than `DEFAULT_MAX_TOKENS` of that.
    """
    max_tokens, seed = params.max_tokens, params.seed
    if max_tokens is None and fills_context:
        max_tokens = max(1, limits.longest - num_prompt)
    elif max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, limits.max_model_len - num_prompt)
    return replace(params, max_tokens=max_tokens, seed=secrets.randbits(64) if seed is None else seed)


def check_length(field: str, num_tokens: int, max_model_len: int, given: str | None = None) -> None:
    """Refuses a prompt behind which not one token would fit.

    Args:
        num_tokens: the prompt's, or the fewest that it can make.
        given: what to say instead of this number.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    if num_tokens >= max_model_len:
        limit = f"must be at most {max_model_len - 1} tokens (the model's context of {max_model_len}, less one)"
        raise InvalidRequest(field, num_tokens if given is None else given, limit)


def check_range(field: str, value: int, lowest: int, highest: int, unit: str = "") -> None:
    """Raises `InvalidRequest` for a number outside of both bounds, which it may equal."""
    if not lowest <= value <= highest:
        raise InvalidRequest(field, value, f"must be {lowest} to {highest} {unit}".rstrip())


def validate(prompt: Int32Array, params: SamplingParams, limits: ServingLimits, *, field: str = "token_ids") -> None:
    """Refuses what can never be served.

    Args:
        prompt: token ids, int32, shape (num_prompt,).
        params: with or without `max_tokens` and `seed`.
        field: where the prompt came from, for the message.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    _check_prompt(prompt, limits, field)
    validate_sampling(params, limits.vocab_size)
    for name, _ in params.logits_processors:
        if name not in limits.logits_processors:
            known = ", ".join(sorted(limits.logits_processors)) or "left out: the executors have none"
            raise InvalidRequest("sampling.logits_processors", name, f"must be {known}")
    _check_room(len(prompt), params, limits)


def validate_generated(generated: Int32Array, params: SamplingParams, limits: ServingLimits) -> None:
    """Refuses tokens that a request cannot have been given before it came.

    Args:
        generated: token ids, int32, shape (num_generated,).
        params: with `max_tokens`.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_range("generated", len(generated), 0, params.max_tokens or 0, "tokens")
    check_ids("generated", generated, limits.vocab_size)


def validate_options(options: RequestOptions) -> None:
    """Refuses options out of range.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_kind("priority", options.priority, Integral)
    if not -MAX_PRIORITY <= options.priority <= MAX_PRIORITY:
        raise InvalidRequest("priority", options.priority, f"must be {-MAX_PRIORITY} to {MAX_PRIORITY}")
    if not isinstance(options.tenant, str) or (options.tenant and not _TENANT.fullmatch(options.tenant)):
        raise InvalidRequest("tenant", options.tenant, "must be 1 to 64 letters, digits, - and _")
    check_kind("tenant_weight", options.tenant_weight, Integral)
    check_range("tenant_weight", options.tenant_weight, 1, MAX_TENANT_WEIGHT)
    if not isinstance(options.adapter, str):
        raise InvalidRequest("adapter", options.adapter, "must be a string")
    if not isinstance(options.prompt.add_special_tokens, bool):
        raise InvalidRequest("add_special_tokens", options.prompt.add_special_tokens, "must be true or false")
    if (kept := options.prompt.truncate_prompt_tokens) is not None:
        check_kind("truncate_prompt_tokens", kept, Integral)
        check_range("truncate_prompt_tokens", kept, 1, MAX_INT32)
    if options.deadline_ms is not None:
        check_kind("deadline_ms", options.deadline_ms, Integral)
        check_range("deadline_ms", options.deadline_ms, 1, MAX_INT32, "milliseconds")
    cache = options.cache
    if not isinstance(cache.salt, str):
        raise InvalidRequest("cache.salt", cache.salt, "must be a string")
    if len(cache.salt.encode()) > MAX_SALT_BYTES:
        raise InvalidRequest("cache.salt", cache.salt, f"must be at most {MAX_SALT_BYTES} bytes")
    if len(cache.retention) > MAX_RETENTIONS:
        raise InvalidRequest("cache.retention", len(cache.retention), f"must be at most {MAX_RETENTIONS} ranges")
    for index, each in enumerate(cache.retention):
        field = f"cache.retention[{index}]"
        for name in ("start", "end", "priority", "duration_ms"):
            value = getattr(each, name)
            if value is not None or name in ("start", "priority"):
                check_kind(f"{field}.{name}", value, Integral)
        if not 0 <= each.priority <= MAX_RETENTION_PRIORITY:
            raise InvalidRequest(f"{field}.priority", each.priority, f"must be 0 to {MAX_RETENTION_PRIORITY}")
        if each.start < 0 or (each.end is not None and each.end <= each.start):
            raise InvalidRequest(field, (each.start, each.end), "must be a range [start, end) with 0 <= start < end")
        if each.duration_ms is not None and each.duration_ms < 0:
            raise InvalidRequest(f"{field}.duration_ms", each.duration_ms, "must be at least 0")


def _check_prompt(prompt: Int32Array, limits: ServingLimits, field: str) -> None:
    if len(prompt) == 0:
        raise InvalidRequest(field, 0, "must be at least 1 token")
    check_length(field, len(prompt), limits.max_model_len)
    check_ids(field, prompt, limits.vocab_size)


def _check_room(num_prompt: int, params: SamplingParams, limits: ServingLimits) -> None:
    max_tokens = fill_defaults(params, num_prompt, limits).max_tokens
    assert max_tokens is not None
    room = limits.max_model_len - num_prompt
    if max_tokens > room:
        limit = (
            f"must be at most {room} behind a prompt of {num_prompt} tokens "
            f"(the model's context is {limits.max_model_len})"
        )
        raise InvalidRequest("sampling.max_tokens", max_tokens, limit)
    num_blocks = limits.num_needed(num_prompt + max(1, max_tokens))
    if num_blocks > limits.num_blocks:
        limit = (
            f"with a prompt of {num_prompt} tokens this needs {num_blocks} KV blocks of {limits.block_size} "
            f"tokens, and the largest pool has {limits.num_blocks}; must be at most "
            f"{max(0, limits.longest - num_prompt)}"
        )
        raise InvalidRequest("sampling.max_tokens", max_tokens, limit)
