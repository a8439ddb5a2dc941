"""The body of POST /v1/completions: OpenAI's fields, and those that other servers have added to them."""

from typing import Any, Literal

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.services.frontend.http.sampling_fields import SamplingFields
from quire.services.frontend.http.stream_fields import StreamFields

# More are better sent as requests of their own.
MAX_PROMPTS = 128
# OpenAI's default.
DEFAULT_MAX_TOKENS = 16


class CompletionBody(SamplingFields, StreamFields):
    """Fields whose type allows one value are known and not supported otherwise."""

    prompt: Any
    max_tokens: int | None = None
    logprobs: int | None = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None

    def sampling(self) -> SamplingParams:
        """How to sample; fields that are unset or null get OpenAI's defaults, else Quire's."""
        return self.sampling_params(DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens, self.logprobs)

    def prompts(self) -> list[tuple[str, str | list[int]]]:
        """The prompts, each with its name for refusals.

        Raises:
            InvalidRequest: it is neither a text, nor token ids, nor a list of either.
        """
        prompt = self.prompt
        if isinstance(prompt, str) or _is_ids(prompt):
            return [("prompt", prompt)]
        if isinstance(prompt, list) and all(isinstance(one, str) or _is_ids(one) for one in prompt):
            if len(prompt) > MAX_PROMPTS:
                raise InvalidRequest("prompt", len(prompt), f"must be at most {MAX_PROMPTS} prompts")
            return [(f"prompt[{index}]", one) for index, one in enumerate(prompt)]
        raise InvalidRequest("prompt", prompt, "must be a text, a list of token ids, or a list of either")


def _is_ids(prompt: object) -> bool:
    """Whether to take it as token ids. One look suffices: the rest is checked with the vocabulary at hand."""
    return isinstance(prompt, list) and (not prompt or (isinstance(prompt[0], int) and prompt[0] is not True))
