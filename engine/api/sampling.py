"""How tokens are chosen and when to stop."""

from dataclasses import dataclass

DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop.

    Penalties apply to the model's logits first, of greedy requests too; then temperature, top_k, top_p, min_p.

    Attributes:
        temperature: divides the logits; 0 is greedy, at most 100.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability mass; in (0, 1].
        min_p: keep tokens at least this likely relative to the most likely one; in [0, 1].
        seed: the same seed and request give the same tokens; None draws one at submission.
        max_tokens: at least 1; None means 128, or what the context leaves if that is less.
        stop: strings that end the text, which then ends before the match; a single one may be given as it is.
        stop_token_ids: tokens that end the sequence; the matched one is in the ids but not in the text.
        ignore_eos: go on past the model's own end-of-sequence tokens.
        presence_penalty: taken off the logit of each token generated so far; -2 to 2.
        frequency_penalty: taken off once for each time the token was generated; -2 to 2.
        repetition_penalty: divides positive and multiplies negative logits of each token in the prompt or generated so
            far; above 0, at most 10.
        logprobs: number of most likely tokens to return beside each token, with log-probabilities, 0 to 20, by the
            model's own logits; None: without.
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
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Lists become tuples, and a single stop string a tuple of one; other types are refused with the request."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    @property
    def is_penalized(self) -> bool:
        """Whether what a sequence has said changes what it says next."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1
