"""Choose one token per row of logits.

A row's token is a pure function of its logits, parameters, seed and position, whatever else is in the batch.
Greedy rows take the most likely token. The others are filtered (temperature, top_k, top_p, min_p, in this order) and
drawn. A draw takes one uniform number per row from a counter-based generator. The inverse of the cumulative
distribution, in the order of token ids, gives the token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.philox import uniform


@dataclass(frozen=True, slots=True, eq=False)
class SamplingRows:
    """Parameters of the rows that draw; every other row of the logits is greedy.

    The host knows which rows draw and which filter. A batch pays only for what it uses, and the device is never asked.
    All tensors are on the logits' device.

    Attributes:
        drawn: int64 [num_drawn]: rows of the logits that draw.
        temperature: float32 [num_drawn], above 0.
        filtered: int64 [num_filtered]: those of the drawn rows, as indices into `drawn`, that filter.
        top_k: int64 [num_filtered]; 0 keeps all.
        top_p: float32 [num_filtered], in (0, 1]; 1 keeps all.
        min_p: float32 [num_filtered], in [0, 1]; 0 keeps all.
        seed: int64 [num_drawn], the bits of the unsigned seed.
        position: int64 [num_drawn]: how many tokens the sequence has before the one to be drawn.
    """

    drawn: Tensor
    temperature: Tensor
    filtered: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    position: Tensor


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Token ids, int64 [num_rows], of float32 logits [num_rows, vocab_size]."""
    tokens = logits.argmax(dim=-1)
    if rows.drawn.numel():
        scaled = scale(logits[rows.drawn], rows.temperature)
        if rows.filtered.numel():
            scaled[rows.filtered] = keep_likely(scaled[rows.filtered], rows.top_k, rows.top_p, rows.min_p)
        tokens[rows.drawn] = _draw(scaled, uniform(rows.seed, rows.position))
    return tokens


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits over temperature, shifted so that a row's greatest is 0: no temperature overflows."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature.unsqueeze(-1)


def keep_likely(scaled: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set the logits of tokens that a filter removes to -inf; of equal tokens the lower id counts as likelier.

    top_p and min_p see the distribution that top_k left, renormalised. The likeliest token always stays.
    """
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    beyond_k = (rank >= top_k.unsqueeze(-1)) & (top_k.unsqueeze(-1) > 0)
    probs = values.masked_fill(beyond_k, -torch.inf).softmax(dim=-1).double()
    mass_before = probs.cumsum(dim=-1) - probs
    # Rounding can bring the sum to 1 before the end: a top_p of 1 must not cut there.
    beyond_p = (mass_before >= top_p.unsqueeze(-1)) & (top_p.unsqueeze(-1) < 1)
    unlikely = probs < min_p.unsqueeze(-1) * probs[:, :1]
    removed = (beyond_k | beyond_p | unlikely) & (rank > 0)
    return torch.empty_like(scaled).scatter_(-1, order, values.masked_fill(removed, -torch.inf))


def _draw(scaled: Tensor, u: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds u; float64 sums, so long rows keep their tails."""
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target = u.unsqueeze(-1) * cumulative[:, -1:]
    # A row of NaN finds no token; the bound keeps it from reaching beyond the vocabulary.
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=scaled.shape[-1] - 1)
