"""What a request must be to be accepted: one table of limits, and the sums that prompt and pool set.

It knows neither text nor transport. Fields are named as in the protocol: every entrance refuses alike.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import (
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_PRIORITY,
    MAX_REPETITION_PENALTY,
    MAX_RETENTION_PRIORITY,
    MAX_RETENTIONS,
    MAX_SALT_BYTES,
    MAX_SEED,
    MAX_STOP_BYTES,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    ServingLimits,
)
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import DEFAULT_MAX_TOKENS, SamplingParams
from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True)
class _Rule:
    field: str
    value: Callable[[SamplingParams], float | None]
    allows: Callable[[float], bool]
    """False for NaN, as every comparison with it is."""
    limit: str
    kind: type = Real
    may_be_unset: bool = False


_RULES = (
    _Rule(
        "sampling.temperature",
        lambda params: params.temperature,
        lambda value: 0 <= value <= MAX_TEMPERATURE,
        f"must be 0 (greedy) to {MAX_TEMPERATURE}",
    ),
    _Rule(
        "sampling.top_k",
        lambda params: params.top_k,
        lambda value: 0 <= value <= MAX_TOP_K,
        f"must be 0 (keep all) to {MAX_TOP_K}",
        Integral,
    ),
    _Rule(
        "sampling.top_p",
        lambda params: params.top_p,
        lambda value: 0 < value <= 1,
        "must be above 0 and at most 1",
    ),
    _Rule("sampling.min_p", lambda params: params.min_p, lambda value: 0 <= value <= 1, "must be 0 to 1"),
    _Rule(
        "sampling.presence_penalty",
        lambda params: params.presence_penalty,
        lambda value: -MAX_PENALTY <= value <= MAX_PENALTY,
        f"must be {-MAX_PENALTY} to {MAX_PENALTY}",
    ),
    _Rule(
        "sampling.frequency_penalty",
        lambda params: params.frequency_penalty,
        lambda value: -MAX_PENALTY <= value <= MAX_PENALTY,
        f"must be {-MAX_PENALTY} to {MAX_PENALTY}",
    ),
    _Rule(
        "sampling.repetition_penalty",
        lambda params: params.repetition_penalty,
        lambda value: 0 < value <= MAX_REPETITION_PENALTY,
        f"must be above 0 and at most {MAX_REPETITION_PENALTY}",
    ),
    _Rule(
        "sampling.logprobs",
        lambda params: params.logprobs,
        lambda value: 0 <= value <= MAX_LOGPROBS,
        f"must be 0 to {MAX_LOGPROBS}",
        Integral,
        may_be_unset=True,
    ),
    _Rule(
        "sampling.seed",
        lambda params: params.seed,
        lambda value: 0 <= value <= MAX_SEED,
        f"must be 0 to {MAX_SEED}",
        Integral,
        may_be_unset=True,
    ),
    _Rule(
        "sampling.max_tokens",
        lambda params: params.max_tokens,
        lambda value: value >= 1,
        "must be at least 1",
        Integral,
        may_be_unset=True,
    ),
)


def fill_defaults(params: SamplingParams, num_prompt: int, limits: ServingLimits) -> SamplingParams:
    """Fills `max_tokens` and `seed` where unset; a prompt that leaves no room is left to `validate`."""
    max_tokens, seed = params.max_tokens, params.seed
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, limits.max_model_len - num_prompt)
    return replace(params, max_tokens=max_tokens, seed=secrets.randbits(64) if seed is None else seed)


def token_array(token_ids: Sequence[int], limits: ServingLimits, field: str = "token_ids") -> Int32Array:
    """Token ids from outside as int32, shape (num_tokens,).

    Raises:
        InvalidRequest: an id is not in the vocabulary.
    """
    try:
        wide = np.asarray(token_ids)  # of whatever width the values need
    # Lists of different lengths; tensors of a GPU or with gradients.
    except (ValueError, TypeError, RuntimeError):
        raise InvalidRequest(field, token_ids, "must be a flat list of integers") from None
    # Objects are integers beyond 64 bits, or anything; beside integers, truth became one.
    has_truth = isinstance(token_ids, (list, tuple)) and bool in map(type, token_ids)
    if has_truth or wide.ndim != 1 or (wide.size and not _are_integers(wide)):
        raise InvalidRequest(field, token_ids, "must be a flat list of integers")
    check_ids(field, wide, limits.vocab_size)
    return wide.astype(np.int32)


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


def check_ids(field: str, ids: NDArray[Any], end: int) -> None:
    """Raises `InvalidRequest` for the first integer that is not 0 to `end` - 1."""
    outside = np.flatnonzero((ids < 0) | (ids >= end))
    if outside.size:
        index = int(outside[0])
        raise InvalidRequest(f"{field}[{index}]", int(ids[index]), f"must be 0 to {end - 1}")


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
    validate_sampling(params)
    _check_stops(params, limits)
    _check_room(len(prompt), params, limits)


def validate_sampling(params: SamplingParams, message: str = "") -> None:
    """Refuses parameters that are out of range for every model.

    Args:
        message: name of the message that has them, for the name of the field.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    prefix = f"{message}." if message else ""
    for rule in _RULES:
        value = rule.value(params)
        if value is None and rule.may_be_unset:
            continue
        _check_kind(prefix + rule.field, value, rule.kind)
        if value is not None and not rule.allows(value):
            raise InvalidRequest(prefix + rule.field, value, rule.limit)


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
    _check_kind("priority", options.priority, Integral)
    if not -MAX_PRIORITY <= options.priority <= MAX_PRIORITY:
        raise InvalidRequest("priority", options.priority, f"must be {-MAX_PRIORITY} to {MAX_PRIORITY}")
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
                _check_kind(f"{field}.{name}", value, Integral)
        if not 0 <= each.priority <= MAX_RETENTION_PRIORITY:
            raise InvalidRequest(f"{field}.priority", each.priority, f"must be 0 to {MAX_RETENTION_PRIORITY}")
        if each.start < 0 or (each.end is not None and each.end <= each.start):
            raise InvalidRequest(field, (each.start, each.end), "must be a range [start, end) with 0 <= start < end")
        if each.duration_ms is not None and each.duration_ms < 0:
            raise InvalidRequest(f"{field}.duration_ms", each.duration_ms, "must be at least 0")


def _check_kind(field: str, value: object, kind: type) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidRequest(field, value, f"must be {'an integer' if kind is Integral else 'a number'}")


def _check_prompt(prompt: Int32Array, limits: ServingLimits, field: str) -> None:
    if len(prompt) == 0:
        raise InvalidRequest(field, 0, "must be at least 1 token")
    check_length(field, len(prompt), limits.max_model_len)
    check_ids(field, prompt, limits.vocab_size)


def _are_integers(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "O":
        return all(isinstance(each, int) for each in values)
    return values.dtype.kind in "iu"


def _check_stops(params: SamplingParams, limits: ServingLimits) -> None:
    if not isinstance(params.stop, (list, tuple)) or not all(isinstance(stop, str) for stop in params.stop):
        raise InvalidRequest("sampling.stop", params.stop, "must be a list of strings")
    if len(params.stop) > MAX_STOPS:
        raise InvalidRequest("sampling.stop", len(params.stop), f"must be at most {MAX_STOPS} strings")
    for index, stop in enumerate(params.stop):
        try:
            size = len(stop.encode())
        except UnicodeEncodeError as error:
            limit = "must be Unicode without lone surrogates"
            raise InvalidRequest(f"sampling.stop[{index}]", stop, limit) from error
        if not 1 <= size <= MAX_STOP_BYTES:
            raise InvalidRequest(f"sampling.stop[{index}]", stop, f"must be 1 to {MAX_STOP_BYTES} bytes of UTF-8")
    count = len(token_array(params.stop_token_ids, limits, "sampling.stop_token_ids"))
    if count > MAX_STOP_TOKENS:
        raise InvalidRequest("sampling.stop_token_ids", count, f"must be at most {MAX_STOP_TOKENS} tokens")


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
    # The last token is sampled but never fed, so it takes no place in the cache.
    num_blocks = math.ceil((num_prompt + max_tokens - 1) / limits.block_size)
    if num_blocks > limits.num_blocks:
        limit = (
            f"with a prompt of {num_prompt} tokens this needs {num_blocks} KV blocks of {limits.block_size} "
            f"tokens, and the largest pool has {limits.num_blocks}; must be at most "
            f"{max(0, limits.num_blocks * limits.block_size + 1 - num_prompt)}"
        )
        raise InvalidRequest("sampling.max_tokens", max_tokens, limit)
