"""Rows that are penalised, one by one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.penalties import GENERATED, IN_PROMPT, PenaltyRows


@dataclass(frozen=True)
class Penalized:
    """What one sequence has said, and how that changes what it says next."""

    prompt: list[int]
    generated: list[int]
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0


def counts_of(prompt: Sequence[int], generated: Sequence[int], vocab_size: int) -> list[int]:
    """One slot's counts, said plainly."""
    known, times = set(prompt), Counter(generated)
    return [IN_PROMPT * (token in known) + GENERATED * times[token] for token in range(vocab_size)]


def penalty_rows(
    rows: Sequence[Penalized],
    vocab_size: int,
    where: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> PenaltyRows:
    """One batch of them; `where`: their rows of the logits, the first ones unless told otherwise.

    Slots are in another order than rows.
    """
    slots = list(reversed(range(len(rows))))
    counts = [counts_of(row.prompt, row.generated, vocab_size) for row in reversed(rows)]

    def real(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return PenaltyRows(
        rows=torch.tensor(range(len(rows)) if where is None else where, dtype=torch.int64, device=device),
        slots=torch.tensor(slots, dtype=torch.int64, device=device),
        counts=torch.tensor(counts, dtype=torch.int32, device=device),
        presence=real([row.presence for row in rows]),
        frequency=real([row.frequency for row in rows]),
        repetition=real([row.repetition for row in rows]),
    )
