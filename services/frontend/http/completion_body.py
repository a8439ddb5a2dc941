"""The body of POST /v1/completions: OpenAI's fields, and those that other servers have added to them."""

from dataclasses import dataclass
from typing import Any, Literal

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.services.frontend.http.beam_fields import BeamFields
from quire.services.frontend.http.prompts import named_prompts
from quire.services.frontend.http.usage import StreamUsage

# OpenAI's default.
DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class CompletionWishes:
    """What an answer is to have.

    Attributes:
        n: choices of each prompt.
        best_of: answers of each prompt, of which the best `n` are given.
        echo: the prompt comes before the text.
        has_logprobs: with log-probabilities of the tokens, of an echo too.
        has_prompt_logprobs: with log-probabilities of the prompt's tokens beside the choice.
        has_token_ids: with the ids of prompt and answer.
        stream_usage: where a stream says what it took.
    """

    n: int
    best_of: int
    echo: bool
    has_logprobs: bool
    has_prompt_logprobs: bool
    has_token_ids: bool
    stream_usage: StreamUsage

    @property
    def is_choosing(self) -> bool:
        """Whether more answers are made than given."""
        return self.best_of > self.n


class CompletionBody(BeamFields):
    """Fields whose type allows one value are known and not supported otherwise."""

    prompt: Any
    max_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    suffix: Literal[""] | None = None

    def sampling(self) -> SamplingParams:
        """How to sample; fields that are unset or null get OpenAI's defaults, else Quire's."""
        # The best answers are found by their log-probabilities.
        logprobs = 0 if self.logprobs is None and self.wishes().is_choosing else self.logprobs
        # An echo has those of the prompt, too.
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        prompt_logprobs = max((each for each in wanted if each is not None), default=None)
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return self.sampling_params(max_tokens, logprobs, prompt_logprobs)

    def wishes(self) -> "CompletionWishes":
        """What the answer is to have.

        Raises:
            InvalidRequest: two fields contradict each other.
        """
        n = self.num_choices()
        best_of = n if self.best_of is None else self.best_of
        if best_of < n:
            raise InvalidRequest("best_of", best_of, f"must be at least n, {n}")
        if best_of > n and self.stream:
            raise InvalidRequest("best_of", best_of, f"must be n, {n}, in a stream, which cannot choose among answers")
        return CompletionWishes(
            n=n,
            best_of=best_of,
            echo=bool(self.echo),
            has_logprobs=self.logprobs is not None,
            has_prompt_logprobs=self.prompt_logprobs is not None,
            has_token_ids=bool(self.return_token_ids),
            stream_usage=self.stream_usage,
        )

    def prompts(self) -> list[tuple[str, str | list[int]]]:
        """The prompts, each with its name for refusals.

        Raises:
            InvalidRequest: it is neither a text, nor token ids, nor a list of either.
        """
        return named_prompts("prompt", self.prompt)
