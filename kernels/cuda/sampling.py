"""In Triton: no row is sorted, and the host waits for nothing.

    per part of a row       _top, _weigh     the greatest logit; the weight of the part, and a histogram of distances
    per row                 _greedy, _draw   from the results of the parts, then inside one part
    per row that filters    `select`         see sampling_filter.py

The tokens are those of the reference but where a rounding error decides: weights are float32, their sums float64 and
always in the same order. FlashInfer's filters are not used: of equal tokens at a threshold they keep all.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.sampling_filter import BUCKETS, bucket_of, select
from quire.kernels.cuda.sampling_row import distance, first_beyond, last_positive, ordered, uniform, weight
from quire.kernels.sampling import SamplingRows

# Whatever the number of rows: a row's sums must not depend on what is beside it.
_PART: Final = 4096
_WARPS: Final = 8


@triton.jit
def _top(logits_ptr, keys_ptr, places_ptr, stride, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = part * block + tl.arange(0, block)
    keys = ordered(tl.load(logits_ptr + row * stride + column, mask=column < size, other=float("-inf")))
    key, to = tl.max(keys, axis=0), row * tl.num_programs(1) + part
    tl.store(keys_ptr + to, key)
    tl.store(places_ptr + to, tl.min(tl.where(keys == key, column, 0x7FFFFFFF), axis=0))


@triton.jit
def _greedy(keys_ptr, places_ptr, tokens_ptr, num_parts, parts: tl.constexpr):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.arange(0, parts)
    keys = tl.load(keys_ptr + row * num_parts + part, mask=part < num_parts, other=-0x80000000)
    places = tl.load(places_ptr + row * num_parts + part, mask=part < num_parts, other=0x7FFFFFFF)
    tl.store(tokens_ptr + row, tl.min(tl.where(keys == tl.max(keys, axis=0), places, 0x7FFFFFFF), axis=0))


@triton.jit
def _weigh(  # type: ignore[no-untyped-def]
    logits_ptr, greatest_ptr, drawn_ptr, temperature_ptr, sums_ptr, counts_ptr, stride, size, filters: tl.constexpr,
    buckets: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    draw, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(drawn_ptr + draw)
    top = tl.load(logits_ptr + row * stride + tl.load(greatest_ptr + row))
    column = part * block + tl.arange(0, block)
    x = tl.load(logits_ptr + row * stride + column, mask=column < size, other=float("-inf"))
    distances = distance(x, top, tl.load(temperature_ptr + draw))
    tl.store(sums_ptr + draw * tl.num_programs(1) + part, tl.sum(weight(distances), axis=0))
    if filters:
        counts = tl.histogram(bucket_of(distances, buckets), buckets)
        tl.atomic_add(counts_ptr + draw * buckets + tl.arange(0, buckets), counts)


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    logits_ptr, greatest_ptr, drawn_ptr, temperature_ptr, seed_ptr, position_ptr, sums_ptr, tokens_ptr, stride, size,
    num_parts, parts: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    draw, part = tl.program_id(0).to(tl.int64), tl.arange(0, parts)
    row = tl.load(drawn_ptr + draw)
    top = tl.load(logits_ptr + row * stride + tl.load(greatest_ptr + row))
    sums = tl.load(sums_ptr + draw * num_parts + part, mask=part < num_parts, other=0.0)
    goal = uniform(tl.load(seed_ptr + draw), tl.load(position_ptr + draw)) * tl.sum(sums, axis=0)
    its_part = tl.minimum(first_beyond(sums, 0.0, goal, part), last_positive(sums, part))
    before = tl.sum(tl.where(part < its_part, sums, 0.0), axis=0)
    column = its_part * block + tl.arange(0, block)
    x = tl.load(logits_ptr + row * stride + column, mask=column < size, other=float("-inf"))
    weights = weight(distance(x, top, tl.load(temperature_ptr + draw)))
    tl.store(tokens_ptr + row, tl.minimum(first_beyond(weights, before, goal, column), last_positive(weights, column)))


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """As the reference; logits are contiguous in their last dimension."""
    greatest = _argmax(logits)
    num_drawn, num_filtered = rows.drawn.shape[0], rows.filtered.shape[0]
    if not num_drawn:
        return greatest
    tokens, stride, size, num_parts = greatest.clone(), logits.stride(0), logits.shape[1], _num_parts(logits)
    sums = torch.empty(num_drawn, num_parts, dtype=torch.float64, device=logits.device)
    counts = torch.zeros(num_drawn, BUCKETS, dtype=torch.int32, device=logits.device)
    _weigh[(num_drawn, num_parts)](
        logits, greatest, rows.drawn, rows.temperature, sums, counts, stride, size, num_filtered > 0, BUCKETS, _PART,
        num_warps=_WARPS,
    )  # fmt: skip
    _draw[(num_drawn,)](
        logits, greatest, rows.drawn, rows.temperature, rows.seed, rows.position, sums, tokens, stride, size, num_parts,
        triton.next_power_of_2(num_parts), _PART, num_warps=_WARPS,
    )  # fmt: skip
    if num_filtered:
        select(logits, rows, greatest, sums, counts, tokens)
    return tokens


def _argmax(logits: Tensor) -> Tensor:
    """int64 [num_rows]: the first of the greatest; NaN counts as greater than any number."""
    num_rows, num_parts = logits.shape[0], _num_parts(logits)
    found = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    # Not halves of one tensor, aligned or not as the number of rows has it: Triton compiles a kernel for either.
    keys, places = (torch.empty(num_rows, num_parts, dtype=torch.int32, device=logits.device) for _ in range(2))
    if num_rows:
        _top[(num_rows, num_parts)](
            logits, keys, places, logits.stride(0), logits.shape[1], _PART, num_warps=_WARPS
        )  # fmt: skip
        _greedy[(num_rows,)](keys, places, found, num_parts, triton.next_power_of_2(num_parts), num_warps=1)
    return found


def _num_parts(logits: Tensor) -> int:
    return -(-logits.shape[1] // _PART)
