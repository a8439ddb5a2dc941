"""Rows that draw, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quire.kernels.sampling import SamplingRows


@dataclass(frozen=True)
class Row:
    """How one row of logits draws; greedy at temperature 0."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    position: int = 0

    @property
    def filters(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def sampling_rows(rows: Sequence[Row], device: torch.device | None = None) -> SamplingRows:
    """One batch of them, on the CPU unless told otherwise."""
    drawn = [index for index, row in enumerate(rows) if row.temperature > 0]
    chosen = [rows[index] for index in drawn]
    filtered = [index for index, row in enumerate(chosen) if row.filters]
    return SamplingRows(
        drawn=torch.tensor(drawn, dtype=torch.int64, device=device),
        temperature=torch.tensor([row.temperature for row in chosen], dtype=torch.float32, device=device),
        filtered=torch.tensor(filtered, dtype=torch.int64, device=device),
        top_k=torch.tensor([chosen[index].top_k for index in filtered], dtype=torch.int64, device=device),
        top_p=torch.tensor([chosen[index].top_p for index in filtered], dtype=torch.float32, device=device),
        min_p=torch.tensor([chosen[index].min_p for index in filtered], dtype=torch.float32, device=device),
        seed=torch.tensor([row.seed for row in chosen], dtype=torch.uint64).view(torch.int64).to(device),
        position=torch.tensor([row.position for row in chosen], dtype=torch.int64, device=device),
    )
