"""What penalties are told about the rows of logits."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

IN_PROMPT: Final = 1
"""Added once to the count of a token of the prompt."""

GENERATED: Final = 2
"""Added to a token's count each time it is generated."""


@dataclass(frozen=True, slots=True, eq=False)
class PenaltyRows:
    """The rows of logits that are penalised; all tensors are on the logits' device.

    Attributes:
        rows: int64 [n], distinct: which rows of the logits.
        slots: int64 [n], distinct: which rows of the counts.
        counts: int32 [num_slots, vocab_size], contiguous: sums of `IN_PROMPT` and `GENERATED`.
        presence, frequency: float32 [n].
        repetition: float32 [n], above 0.
    """

    rows: Tensor
    slots: Tensor
    counts: Tensor
    presence: Tensor
    frequency: Tensor
    repetition: Tensor
