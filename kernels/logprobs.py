"""Log-probabilities of sampled tokens, and the most likely tokens: log-softmax of rows of logits as they are.

logits      [num_rows, vocab_size] float32
tokens      [num_rows] int64: what each row sampled
rows        [n] int64: the rows that are wanted
num_top     at most vocab_size: how many of the most likely tokens; of equal logits the lower id counts as likelier
result      [n, 1 + num_top] float32: of the sampled token, then of the most likely ones
            [n, num_top] int32: the ids of these, the most likely first

A row with a NaN or with nothing but -inf gives NaN.
"""

import torch
from torch import Tensor


def logprobs(logits: Tensor, tokens: Tensor, rows: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """As the module says."""
    x = logits[rows]
    # Sorted by logits: rounding can make different log-probabilities equal.
    top = x.sort(dim=-1, descending=True, stable=True).indices[:, :num_top]
    found = x.log_softmax(dim=-1).gather(-1, torch.cat((tokens[rows].unsqueeze(-1), top), dim=-1))
    return found, top.int()
