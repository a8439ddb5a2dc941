"""Make tokens less likely that a sequence has had already, or more likely.

Of a token that has been generated `count` times, the logit becomes

    repeated - (presence * (count > 0) + frequency * count)

where `repeated` is logit / repetition of a positive logit and logit * repetition of any other, if the token is in the
prompt or was generated; else the logit itself. Every backend computes in float64 and rounds once, to float32. Products
of two float32 are exact in float64. So the result has the same bits whether or not a compiler fuses operations.

presence and frequency: OpenAI's; repetition: Keskar et al., "CTRL", 2019, section 4.1.
"""

from dataclasses import dataclass
from typing import Final

import torch
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


def penalize(logits: Tensor, rows: PenaltyRows) -> None:
    """Changes the named rows of float32 logits [num_rows, vocab_size] in place."""
    x, counts = logits[rows.rows].double(), rows.counts[rows.slots]
    presence, frequency, repetition = (
        each.double().unsqueeze(-1) for each in (rows.presence, rows.frequency, rows.repetition)
    )
    generated = (counts // GENERATED).double()
    repeated = torch.where(x > 0, x / repetition, x * repetition)
    penalized = repeated - (presence * (generated > 0) + frequency * generated)
    logits[rows.rows] = torch.where(counts > 0, penalized, x).float()
