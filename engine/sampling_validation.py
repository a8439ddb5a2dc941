"""What `SamplingParams` must be: one table for numbers, one for lists of token ids and of texts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import (
    MAX_ALLOWED_TOKENS,
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_BAD_WORDS_IDS,
    MAX_BIASED_TOKENS,
    MAX_INT32,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_NGRAM_SIZE,
    MAX_PENALTY,
    MAX_PROCESSOR_BYTES,
    MAX_PROCESSORS,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_STOP_BYTES,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MAX_TOP_K,
)
from quire.engine.api.pooling import Pooling
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.grammar.validation import validate_structured_output
from quire.engine.token_ids import token_array


@dataclass(frozen=True, slots=True)
class _Number:
    name: str
    allows: Callable[[float], bool]
    """False for NaN, as every comparison with it is."""
    limit: str
    kind: type = Real
    may_be_unset: bool = False


@dataclass(frozen=True, slots=True)
class _List:
    name: str
    most: int


def _between(name: str, low: float, high: float, note: str = "", **how: Any) -> _Number:
    return _Number(name, lambda value: low <= value <= high, f"must be {low}{note} to {high}", **how)


_NUMBERS: Final = (
    _between("temperature", 0, MAX_TEMPERATURE, " (greedy)"),
    _between("top_k", 0, MAX_TOP_K, " (keep all)", kind=Integral),
    _Number("top_p", lambda value: 0 < value <= 1, "must be above 0 and at most 1"),
    _between("min_p", 0, 1),
    _Number("typical_p", lambda value: 0 < value <= 1, "must be above 0 and at most 1"),
    _between("presence_penalty", -MAX_PENALTY, MAX_PENALTY),
    _between("frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
    _Number(
        "repetition_penalty",
        lambda value: 0 < value <= MAX_REPETITION_PENALTY,
        f"must be above 0 and at most {MAX_REPETITION_PENALTY}",
    ),
    _between("logprobs", 0, MAX_LOGPROBS, kind=Integral, may_be_unset=True),
    _between("prompt_logprobs", 0, MAX_LOGPROBS, kind=Integral, may_be_unset=True),
    _between("seed", 0, MAX_SEED, kind=Integral, may_be_unset=True),
    _Number("max_tokens", lambda value: value >= 0, "must be at least 0", kind=Integral, may_be_unset=True),
    _between("min_tokens", 0, MAX_INT32, kind=Integral),
    _between("no_repeat_ngram_size", 0, MAX_NGRAM_SIZE, kind=Integral),
)
_FLAGS: Final = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
_TEXTS: Final = (_List("stop", MAX_STOPS), _List("bad_words", MAX_BAD_WORDS))
_TOKENS: Final = (_List("stop_token_ids", MAX_STOP_TOKENS), _List("allowed_token_ids", MAX_ALLOWED_TOKENS))


def validate_sampling(params: SamplingParams, vocab_size: int, message: str = "") -> None:
    """Refuses parameters that are out of range for every prompt.

    Args:
        vocab_size: token ids are below this.
        message: name of the message that has them, for the name of the field.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    prefix = f"{message}.sampling." if message else "sampling."
    for rule in _NUMBERS:
        value = getattr(params, rule.name)
        if value is None and rule.may_be_unset:
            continue
        check_kind(prefix + rule.name, value, rule.kind)
        if not rule.allows(value):
            raise InvalidRequest(prefix + rule.name, value, rule.limit)
    for name in _FLAGS:
        if not isinstance(flag := getattr(params, name), bool):
            raise InvalidRequest(prefix + name, flag, "must be true or false")
    if not isinstance(params.pooling, Pooling):
        raise InvalidRequest(prefix + "pooling", params.pooling, "must be a Pooling")
    for each in _TEXTS:
        if (texts := getattr(params, each.name)) != ():
            _check_texts(prefix + each.name, texts, each.most)
    for each in _TOKENS:
        if (token_ids := getattr(params, each.name)) != ():
            _check_tokens(prefix + each.name, token_ids, each.most, vocab_size)
    if params.logit_bias != ():
        _check_bias(prefix + "logit_bias", params.logit_bias, vocab_size)
    if params.thinking is not None:
        _check_thinking(prefix + "thinking", params.thinking, vocab_size)
    if params.logits_processors != ():
        _check_processors(prefix + "logits_processors", params.logits_processors)
    if params.bad_words_ids != ():
        _check_words(prefix + "bad_words_ids", params.bad_words_ids, vocab_size)
    if params.structured_output is not None:
        validate_structured_output(params.structured_output, prefix + "structured_output")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        limit = f"must be at most max_tokens, {params.max_tokens}"
        raise InvalidRequest(prefix + "min_tokens", params.min_tokens, limit)


def check_kind(field: str, value: object, kind: type) -> None:
    """Raises `InvalidRequest` for a value that is no number of this kind."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidRequest(field, value, f"must be {'an integer' if kind is Integral else 'a number'}")


def _check_tokens(field: str, values: Any, most: int, vocab_size: int) -> None:
    count = len(token_array(values, vocab_size, field))
    if count > most:
        raise InvalidRequest(field, count, f"must be at most {most} tokens")


def _check_texts(field: str, texts: Any, most: int) -> None:
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(field, texts, "must be a list of strings")
    if len(texts) > most:
        raise InvalidRequest(field, len(texts), f"must be at most {most} strings")
    for index, text in enumerate(texts):
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{field}[{index}]", text, "must be Unicode without lone surrogates") from error
        if not 1 <= size <= MAX_STOP_BYTES:
            raise InvalidRequest(f"{field}[{index}]", text, f"must be 1 to {MAX_STOP_BYTES} bytes of UTF-8")


def _check_bias(field: str, pairs: Any, vocab_size: int) -> None:
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise InvalidRequest(field, pairs, "must be a mapping from token ids to numbers")
    _check_tokens(field, [token_id for token_id, _ in pairs], MAX_BIASED_TOKENS, vocab_size)
    for token_id, bias in pairs:
        check_kind(f"{field}[{token_id}]", bias, Real)
        if not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
            limit = f"must be {-MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}"
            raise InvalidRequest(f"{field}[{token_id}]", bias, limit)


def _check_words(field: str, words: Any, vocab_size: int) -> None:
    if not isinstance(words, tuple):
        raise InvalidRequest(field, words, "must be a list of lists of token ids")
    if len(words) > MAX_BAD_WORDS_IDS:
        raise InvalidRequest(field, len(words), f"must be at most {MAX_BAD_WORDS_IDS} lists")
    for index, word in enumerate(words):
        _check_tokens(f"{field}[{index}]", word, MAX_BAD_WORD_TOKENS, vocab_size)
        if not len(word):
            raise InvalidRequest(f"{field}[{index}]", 0, "must be at least 1 token")


def _check_processors(field: str, pairs: Any) -> None:
    if not isinstance(pairs, tuple) or not all(map(_is_pair_of_texts, pairs)):
        raise InvalidRequest(field, pairs, "must be a mapping from names to values of JSON")
    if len(pairs) > MAX_PROCESSORS:
        raise InvalidRequest(field, len(pairs), f"must be at most {MAX_PROCESSORS} processors")
    size = sum(len(argument.encode(errors="replace")) for _, argument in pairs)
    if size > MAX_PROCESSOR_BYTES:
        raise InvalidRequest(field, size, f"must be at most {MAX_PROCESSOR_BYTES} bytes of JSON")
    for name, argument in pairs:
        try:
            json.loads(argument)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{field}[{name}]", argument, f"must be valid JSON ({error})") from error


def _is_pair_of_texts(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(each, str) for each in pair)


def _check_thinking(field: str, thinking: Any, vocab_size: int) -> None:
    if not isinstance(thinking, ThinkingBudget):
        raise InvalidRequest(field, thinking, "must be a ThinkingBudget")
    check_kind(f"{field}.max_tokens", thinking.max_tokens, Integral)
    if not 0 <= thinking.max_tokens <= MAX_INT32:
        raise InvalidRequest(f"{field}.max_tokens", thinking.max_tokens, f"must be 0 to {MAX_INT32}")
    for name, token_ids in (("begin_ids", thinking.begin_ids), ("end_ids", thinking.end_ids)):
        _check_tokens(f"{field}.{name}", token_ids, MAX_BAD_WORD_TOKENS, vocab_size)
    if not thinking.end_ids:
        raise InvalidRequest(f"{field}.end_ids", 0, "must be at least 1 token")
