"""Reference in PyTorch."""

import torch
from torch import Tensor


def logprobs(logits: Tensor, tokens: Tensor, rows: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """As this package says."""
    x = logits[rows]
    # Of the logits: rounding can make equal what was not.
    top = x.sort(dim=-1, descending=True, stable=True).indices[:, :num_top]
    found = x.log_softmax(dim=-1).gather(-1, torch.cat((tokens[rows].unsqueeze(-1), top), dim=-1))
    return found, top.int()
