"""Reference in PyTorch."""

import torch
from torch import Tensor

from quire.kernels.penalties.base import GENERATED, PenaltyRows


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
