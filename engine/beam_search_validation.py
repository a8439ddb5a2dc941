"""What the parameters of beam search must be. Those that it shares with sampling are checked as of sampling."""

from numbers import Integral, Real
from typing import Final

from quire.engine.api.beam_search import BeamSearchParams, EarlyStopping
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_BEAM_WIDTH, MAX_LENGTH_PENALTY
from quire.engine.sampling_validation import check_kind
from quire.engine.validation import check_range

_EARLY_STOPPING: Final = "must be an EarlyStopping, false, true or 'never'"


def validate_beam_search(params: BeamSearchParams) -> None:
    """Refuses what sampling does not have.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    check_kind("sampling.beam_width", params.beam_width, Integral)
    check_range("sampling.beam_width", params.beam_width, 1, MAX_BEAM_WIDTH)
    check_kind("sampling.length_penalty", params.length_penalty, Real)
    if not -MAX_LENGTH_PENALTY <= params.length_penalty <= MAX_LENGTH_PENALTY:
        limit = f"must be {-MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}"
        raise InvalidRequest("sampling.length_penalty", params.length_penalty, limit)
    if not isinstance(params.early_stopping, EarlyStopping):
        raise InvalidRequest("sampling.early_stopping", params.early_stopping, _EARLY_STOPPING)
    if params.max_tokens == 0:
        raise InvalidRequest("sampling.max_tokens", 0, "must be at least 1 in a beam search")
