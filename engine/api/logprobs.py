"""Log-probabilities of one token."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely the model held a token: log-softmax of its logits, before penalties, temperature and filters.

    Attributes:
        logprob: of the token.
        top_token_ids: the most likely tokens, as many as were asked for, the most likely first; of equally likely ones
            the lower id.
        top_logprobs: of each of these.
        rank: the token's place among all, 1 for the most likely; of tokens of a prompt only.
    """

    logprob: float
    top_token_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]
    rank: int | None = None
