"""The fields of a body that say how to sample: OpenAI's, and those that other servers have added to them."""

from typing import Any, Final

from pydantic import Field

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import CacheParams, PromptParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.trace_context import TraceContext
from quire.services.frontend.http.structure_fields import StructureFields

# Fields of the same name and meaning in `SamplingParams`, where null is the default.
_AS_GIVEN: Final = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "stop_token_ids", "ignore_eos", "min_tokens",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "no_repeat_ngram_size", "bad_words",
    "allowed_token_ids", "logits_processors", "include_stop_str_in_output", "skip_special_tokens",
)  # fmt: skip


class SamplingFields(StructureFields):
    """Fields that every API for text has."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = Field(None, union_mode="left_to_right")
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    logits_processors: dict[str, Any] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    n: int | None = None
    truncate_prompt_tokens: int | None = None
    priority: int | None = None
    cache_salt: str | None = None
    deadline_ms: int | None = None

    def sampling_params(
        self, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None = None
    ) -> SamplingParams:
        """How to sample; fields that are unset or null get the defaults of `SamplingParams`.

        Raises:
            InvalidRequest: a key of `logit_bias` is no token id, or several fields say what the answer must match.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in _AS_GIVEN}
        bias = tuple((_token_id(key), value) for key, value in (self.logit_bias or {}).items())
        given |= {"logit_bias": bias, "structured_output": self.structured_output()}
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs, **given)

    def options(self, add_special_tokens: bool, trace: TraceContext | None, adapter: str = "") -> RequestOptions:
        """Wishes beyond sampling.

        Args:
            add_special_tokens: to a text, as the model's folder says.
            trace: that the request's header fields name.
            adapter: that the model's name stands for.
        """
        prompt = PromptParams(add_special_tokens, self.truncate_prompt_tokens)
        return RequestOptions(
            self.priority or 0, CacheParams(salt=self.cache_salt or ""), prompt, trace, self.deadline_ms, adapter
        )

    def num_choices(self) -> int:
        """Answers to each prompt.

        Raises:
            InvalidRequest: `n` is below 1.
        """
        n = 1 if self.n is None else self.n
        if n < 1:
            raise InvalidRequest("n", n, "must be at least 1")
        return n


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise InvalidRequest("logit_bias", key, "must have token ids for keys")
    return int(key)
