"""The fields of a body that ask for beam search instead of sampling, as vLLM's API has them."""

from dataclasses import fields
from typing import Any, Final, Literal

from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_BEAM_WIDTH
from quire.engine.api.sampling import SamplingParams
from quire.engine.validation import check_range
from quire.services.frontend.http.sampling_fields import SamplingFields
from quire.services.frontend.http.stream_fields import StreamFields

_SHARED: Final = ("max_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens", "logprobs")
# Where nothing is sampled and no stop string ends anything, these mean nothing.
_WITHOUT_EFFECT: Final = ("seed", "include_stop_str_in_output")
_DEFAULTS: Final = SamplingParams()


class BeamFields(SamplingFields, StreamFields):
    """Fields that every API for text has, beam search among them."""

    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None

    def beam_search(self, sampling: SamplingParams, width: int, width_field: str = "n") -> BeamSearchParams | None:
        """How to search; None: the answer is to be sampled.

        Args:
            sampling: what the body asks for.
            width: number of beams.
            width_field: the field that says so.

        Raises:
            InvalidRequest: names a field that does not go with the others.
        """
        if not self.use_beam_search:
            self._refuse_without_search()
            return None
        if self.stream:
            limit = "must be false with use_beam_search, whose answers are known at its end only"
            raise InvalidRequest("stream", True, limit)
        check_range(width_field, width, 1, MAX_BEAM_WIDTH, "with use_beam_search")
        _refuse_others(sampling)
        shared: dict[str, Any] = {name: getattr(sampling, name) for name in _SHARED}
        return BeamSearchParams(
            width,
            length_penalty=1.0 if self.length_penalty is None else self.length_penalty,
            early_stopping=self.early_stopping or False,  # type: ignore[arg-type]
            **shared,
        )

    def _refuse_without_search(self) -> None:
        for name, off in (("length_penalty", 1), ("early_stopping", False)):
            if (value := getattr(self, name)) not in (None, off):
                raise InvalidRequest(name, value, "must be left out unless use_beam_search is true")


def _refuse_others(sampling: SamplingParams) -> None:
    if sampling.temperature not in (0, 1):
        limit = "must be 0 or 1 with use_beam_search, which does not sample"
        raise InvalidRequest("sampling.temperature", sampling.temperature, limit)
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        is_known = field.name in (*_SHARED, *_WITHOUT_EFFECT, "temperature")
        if not is_known and value != getattr(_DEFAULTS, field.name):
            raise InvalidRequest(f"sampling.{field.name}", value, "must be left out with use_beam_search")
