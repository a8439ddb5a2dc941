"""How beam search looks for the most likely answers."""

from dataclasses import dataclass
from enum import IntEnum

from quire.engine.api.sampling import SamplingParams


class EarlyStopping(IntEnum):
    """When a search with enough finished answers ends; values equal those of the protocol."""

    LIKELY = 0
    """When no beam, scored at its present length, is better than the worst of them."""
    FULL = 1
    """At once."""
    NEVER = 2
    """When no beam can become better than the worst of them; a length penalty above 0 makes longer answers better."""


_NAMED = {False: EarlyStopping.LIKELY, True: EarlyStopping.FULL, "never": EarlyStopping.NEVER}


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """How beam search looks for the most likely answers.

    The score of an answer is the sum of its tokens' log-probabilities, divided by their number to the power of
    `length_penalty`. Log-probabilities are the model's own, so nothing that changes logits goes with beam search.

    Attributes:
        beam_width: beams that are followed at once, and answers that are found; 1 to 16.
        max_tokens: of an answer, at least 1; None means 128, or what the context leaves if that is less.
        length_penalty: -10 to 10; above 0 long answers are better than their probability, below 0 short ones.
        early_stopping: when a search ends. False, True and "never" are taken, too, as `transformers` has them.
        ignore_eos: go on past the model's own end-of-sequence tokens.
        stop_token_ids: tokens that end an answer; the matched one is in the ids but not in the text.
        skip_special_tokens: special tokens make no text.
        logprobs: number of most likely tokens to return beside each token, with log-probabilities, 0 to 20; None:
            without.
    """

    beam_width: int = 4
    max_tokens: int | None = None
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = EarlyStopping.LIKELY
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    skip_special_tokens: bool = True
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.early_stopping, (bool, str)):
            found = _NAMED.get(self.early_stopping, self.early_stopping)
            object.__setattr__(self, "early_stopping", found)
        if isinstance(self.stop_token_ids, list):
            object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    @property
    def sampling(self) -> SamplingParams:
        """What a request for one answer has of them."""
        return SamplingParams(
            temperature=0.0,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids,
            skip_special_tokens=self.skip_special_tokens,
            logprobs=self.logprobs,
        )
