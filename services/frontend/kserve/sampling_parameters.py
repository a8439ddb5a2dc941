"""`sampling_parameters`, the JSON object of the vLLM backend."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.services.frontend.kserve.signature import SAMPLING_PARAMETERS

# vLLM's default.
DEFAULT_MAX_TOKENS = 16
# Fields of the same name and meaning in `SamplingParams`, where None is the default.
_AS_GIVEN = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos", "min_tokens",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "bad_words", "allowed_token_ids", "logit_bias",
    "logprobs",
)  # fmt: skip


class SamplingParameters(BaseModel):
    """vLLM's fields. Numbers may be strings, as its backend's examples have them.

    Fields whose type allows one value are known and not supported otherwise. Null asks for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    n: Literal[1, "1"] | None = None
    best_of: Literal[1, "1"] | None = None
    length_penalty: Literal[1, "1", "1.0"] | None = None
    use_beam_search: Literal[False, "false", "False"] | None = None
    early_stopping: Literal[False] | None = None
    include_stop_str_in_output: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    spaces_between_special_tokens: Literal[True] | None = None
    detokenize: Literal[True] | None = None

    def sampling(self) -> SamplingParams:
        """What is unset gets vLLM's defaults."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _AS_GIVEN}
        return SamplingParams(max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens, **given)


def read_sampling_parameters(text: bytes) -> SamplingParams:
    """The sampling of a JSON object; "" is an empty one.

    Raises:
        InvalidRequest: it is no such object; a field at fault is named behind a dot.
    """
    try:
        found = SamplingParameters.model_validate_json(text or b"{}")
    except ValidationError as error:
        raise _invalid(error) from error
    for name, value in (found.__pydantic_extra__ or {}).items():
        if value is not None:
            raise InvalidRequest(f"{SAMPLING_PARAMETERS}.{name}", value, "there is no such field here; leave it out")
    return found.sampling()


def _invalid(error: ValidationError) -> InvalidRequest:
    problem: dict[str, Any] = dict(error.errors(include_url=False)[0])
    # Behind the name stands which type of a union it was tried as, or the entry.
    field = ".".join((SAMPLING_PARAMETERS, *map(str, problem["loc"][:1])))
    return InvalidRequest(field, problem["input"], problem["msg"][0].lower() + problem["msg"][1:])
