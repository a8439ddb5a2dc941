"""How tokens are chosen and when to stop."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.pooling import Pooling
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.api.thinking import ThinkingBudget

DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop.

    First the model's logits change, of greedy requests too: penalties and `logit_bias` are added, then tokens are
    forbidden. Then come temperature, typical_p, top_k, top_p and min_p. Values that other servers take for "off" mean
    off: a top_k of -1, an empty stop string, None.

    Attributes:
        temperature: divides the logits; 0 is greedy, at most 100.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability mass; in (0, 1].
        min_p: keep tokens at least this likely relative to the most likely one; in [0, 1].
        seed: the same seed and request give the same tokens; None draws one at submission.
        max_tokens: 0 computes the prompt alone; None means 128, or what the context leaves if that is less.
        stop: strings that end the text, which then ends before the match; a single one may be given as it is.
        stop_token_ids: tokens that end the sequence; the matched one is in the ids but not in the text.
        ignore_eos: go on past the model's own end-of-sequence tokens.
        presence_penalty: taken off the logit of each token generated so far; -2 to 2.
        frequency_penalty: taken off once for each time the token was generated; -2 to 2.
        repetition_penalty: divides positive and multiplies negative logits of each token in the prompt or generated so
            far; above 0, at most 10.
        logit_bias: added to the logits of these tokens; -100 to 100, at most 1024 tokens. A mapping is taken, too.
        allowed_token_ids: only these tokens may come, and what ends the sequence must be among them; none: all may. At
            most 1024.
        bad_words: texts that must not be generated, at most 64; each is forbidden as it is tokenized at the beginning
            of a text and behind a space.
        bad_words_ids: the same as token ids: the last token of each is forbidden behind the others.
        min_tokens: nothing ends the sequence before so many tokens.
        no_repeat_ngram_size: no run of so many tokens, prompt and generation together, comes twice; 0 allows it.
        typical_p: keep the locally typical tokens with this probability mass (Meister et al., 2022); in (0, 1].
        include_stop_str_in_output: the text ends behind the match of a stop string, not before it.
        skip_special_tokens: special tokens make no text.
        thinking: a limit of the tokens in which the model thinks; None: none.
        logits_processors: names of processors that the executor or `LLM` was given, each with its argument as JSON. A
            mapping from names to values is taken, too. At most 8, of 64 KiB together.
        logprobs: number of most likely tokens to return beside each token, with log-probabilities, 0 to 20, by the
            model's own logits; None: without.
        prompt_logprobs: the same for each token of the prompt but the first, 0 to 20; the prompt is computed whole, and
            nothing of it is taken from the cache.
        structured_output: what the answer must match; None: nothing.
        pooling: which hidden states of the prompt make the embedding; it is computed whole then, too.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    no_repeat_ngram_size: int = 0
    typical_p: float = 1.0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_output: StructuredOutput | None = None
    pooling: Pooling = Pooling.NONE
    logits_processors: tuple[tuple[str, str], ...] = ()
    thinking: ThinkingBudget | None = None

    def __post_init__(self) -> None:
        """What is given in another form takes that of the field; what has no such form is refused with the request."""
        for field in fields(self):
            value = getattr(self, field.name)
            normal = _normal(field.name, field.default if value is None else value)
            if normal is not value:
                object.__setattr__(self, field.name, normal)

    @property
    def is_penalized(self) -> bool:
        """Whether what a sequence has said changes what it says next."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1


def choice_params(params: SamplingParams, index: int) -> SamplingParams:
    """Parameters of one of several answers to a prompt: its seed is `index` behind the first's, if that has one."""
    return params if params.seed is None else replace(params, seed=(params.seed + index) % 2**64)


def _normal(name: str, value: Any) -> Any:
    """A list as a tuple, a mapping as its pairs, one stop string as a tuple of it, "off" as the default."""
    if isinstance(value, list):
        value = tuple(tuple(each) if isinstance(each, list) else each for each in value)
    elif isinstance(value, Mapping):
        value = tuple(value.items()) if name != "logits_processors" else _as_json(value)
    if name == "stop":
        value = (value,) if isinstance(value, str) else value
        return () if isinstance(value, tuple) and not any(value) else value
    return 0 if name == "top_k" and value == -1 else value


def _as_json(arguments: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(sorted((name, json.dumps(value, allow_nan=False)) for name, value in arguments.items()))
    except (TypeError, ValueError, RecursionError) as error:
        limit = f"must be a mapping from names to values of JSON ({error})"
        raise InvalidRequest("sampling.logits_processors", dict(arguments), limit) from error
