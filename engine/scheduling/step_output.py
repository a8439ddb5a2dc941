"""What the result of one step changed."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.open_request import Finish
from quire.engine.sequence import Sequence
from quire.engine.step_update import StepUpdate


@dataclass(slots=True)
class StepOutput:
    """Changes that one result made.

    Attributes:
        started: sequences whose context is complete, which is when `num_cached` is known.
        sequences, token_ids: of equal length, one new token each.
        logprobs: of the tokens whose sequences want them, in the same order.
        finished: sequences that ended with this step, after their token above.
        prompt_logprobs: of tokens of prompts, with their positions.
        refused: sequences that ended with an error, of their own requests.
        embeddings: of prompts.
    """

    started: list[Sequence] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[tuple[Sequence, TokenLogprobs]] = field(default_factory=list)
    finished: list[Sequence] = field(default_factory=list)
    prompt_logprobs: list[tuple[Sequence, int, TokenLogprobs]] = field(default_factory=list)
    refused: list[tuple[Sequence, RequestError]] = field(default_factory=list)
    embeddings: list[tuple[Sequence, NDArray[np.float32]]] = field(default_factory=list)

    @property
    def ended(self) -> list[tuple[Sequence, Finish | RequestError]]:
        """All sequences of which nothing more comes, and how they ended."""
        return [*((sequence, sequence.outcome) for sequence in self.finished), *self.refused]

    def update(self) -> StepUpdate[Sequence]:
        """The same, for whoever waits for the sequences."""
        return StepUpdate(
            started=((sequence, sequence.num_cached) for sequence in self.started),
            tokens=zip(self.sequences, self.token_ids, strict=True),
            logprobs=self.logprobs,
            ended=self.ended,
            prompt_logprobs=self.prompt_logprobs,
            embeddings=self.embeddings,
        )
