"""Rows that filter, in Triton: thresholds are searched for, not found by sorting; one program per row.

reach       distances by the eighth were counted when the row was weighed: they say how far what passes can be
gather      what may pass is copied, in order of ids, where there is room for it; else the row itself is searched
search      for a rank, whose bits are those of the distance, then of the place: likelier is less, no two are alike
draw        among the tokens up to that rank, in order of ids
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.sampling_row import distance, first_beyond, last_positive, uniform, weight
from quire.kernels.sampling import SamplingRows

BUCKETS: Final = 256
# Likely tokens of real models are fewer, except where sampling is close to uniform: that is slower, not wrong.
_ROOM: Final = 8192
# Tokens at a time: of what was gathered, of a whole row, and of a row that is gathered.
_FEW: Final = 512
_MANY: Final = 2048
_GATHER: Final = 8192
_WARPS: Final = 16
# One kernel serves all vocabularies up to 131,072.
_LEAST_ID_BITS: Final = 17


@triton.jit
def bucket_of(distances, buckets: tl.constexpr):  # type: ignore[no-untyped-def]
    """Eighths, the last bucket for all that are further."""
    return tl.where(distances < buckets / 8, distances * 8, buckets - 1).to(tl.int32)


@triton.jit
def _reach(counts_ptr, total, top_k, top_p, min_p, buckets: tl.constexpr):  # type: ignore[no-untyped-def]
    """The distance before which all lies that may pass. top_k needs all that it leaves: top_p is relative to that."""
    bucket = tl.arange(0, buckets)
    counts = tl.load(counts_ptr + bucket)
    # A little more than the weight can be, whatever the rounding.
    heaviest = tl.exp(bucket.to(tl.float32) / -8) * 1.0001
    from_here = tl.cumsum(counts * heaviest.to(tl.float64), axis=0, reverse=True)
    spared = tl.where(top_p < 1, (1 - top_p.to(tl.float64)) * total, -1.0)
    may_pass = (from_here > spared) & (heaviest >= min_p)
    if top_k > 0:
        may_pass = tl.cumsum(counts, axis=0) - counts < top_k
    last = tl.max(tl.where(may_pass, bucket, 0), axis=0)
    return tl.where(last < buckets - 1, (last + 1) / 8, float("inf"))


@triton.jit
def _gather(  # type: ignore[no-untyped-def]
    logits_ptr, size, least, values_ptr, ids_ptr, room: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """Copies logits from `least` on, as many as there is room for; how many there are."""
    count = 0
    for start in range(0, size, block):
        column = start + tl.arange(0, block)
        x = tl.load(logits_ptr + column, mask=column < size, other=float("-inf"))
        passes = (x >= least) & (column < size)
        place = count + tl.cumsum(passes.to(tl.int32), axis=0) - 1
        tl.store(values_ptr + place, x, mask=passes & (place < room))
        tl.store(ids_ptr + place, column, mask=passes & (place < room))
        count += tl.sum(passes.to(tl.int32), axis=0)
    tl.debug_barrier()
    return count


@triton.jit
def _likelihood(source_ptr, place, size, top, temperature, id_bits: tl.constexpr):  # type: ignore[no-untyped-def]
    """(rank, weight): ranks are int64, less is likelier; of equal distances the lower place is."""
    x = tl.load(source_ptr + place, mask=place < size, other=float("-inf"))
    far = distance(x, top, temperature)
    rank = (far.to(tl.int32, bitcast=True).to(tl.int64) << id_bits) | place
    return rank, tl.where(place < size, weight(far), 0.0)


@triton.jit
def _search(  # type: ignore[no-untyped-def]
    source_ptr, size, top, temperature, goal, by_weight: tl.constexpr, id_bits: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The greatest rank before which there is less than the goal, in tokens or weight: three bits of it per pass."""
    digit = tl.arange(0, 8).to(tl.int64)
    found = tl.zeros((), tl.int64)
    digits: tl.constexpr = (31 + id_bits + 2) // 3
    for i in range(digits):
        attempts = found + (digit << (3 * (digits - 1 - i)))
        before = tl.zeros((8, block), tl.float64)
        for start in range(0, size, block):
            place = start + tl.arange(0, block)
            rank, weights = _likelihood(source_ptr, place, size, top, temperature, id_bits)
            amount = weights if by_weight else (place < size).to(tl.float64)
            before += tl.where(rank[None, :] < attempts[:, None], amount[None, :], 0.0)
        found = tl.max(tl.where(tl.sum(before, axis=1) < goal, attempts, found), axis=0)
    return found


@triton.jit
def _weigh(  # type: ignore[no-untyped-def]
    source_ptr, size, top, temperature, last_rank, min_p, id_bits: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """Weight of all tokens that pass."""
    total = tl.zeros((block,), tl.float64)
    for start in range(0, size, block):
        place = start + tl.arange(0, block)
        rank, weights = _likelihood(source_ptr, place, size, top, temperature, id_bits)
        total += tl.where((rank <= last_rank) & (weights >= min_p), weights, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    source_ptr, size, top, temperature, last_rank, min_p, goal, id_bits: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """The place of the first token that passes at which the sum exceeds the goal, or else of the last that passes."""
    first, last, total = 0x7FFFFFFF, 0, tl.zeros((), tl.float64)
    for start in range(0, size, block):
        place = start + tl.arange(0, block)
        rank, weights = _likelihood(source_ptr, place, size, top, temperature, id_bits)
        weights = tl.where((rank <= last_rank) & (weights >= min_p), weights, 0.0)
        first = tl.minimum(first, first_beyond(weights, total, goal, place))
        last = tl.maximum(last, last_positive(weights, place))
        total += tl.sum(weights, axis=0)
    return tl.minimum(first, last)


@triton.jit
def _select(  # type: ignore[no-untyped-def]
    source_ptr, size, top, temperature, top_k, top_p, min_p, total, u, id_bits: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """The place of the token that is drawn; `total` is the weight of the whole row."""
    last_rank = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
    if top_k > 0:
        last_rank = _search(source_ptr, size, top, temperature, top_k.to(tl.float64), False, id_bits, block)
        total = _weigh(source_ptr, size, top, temperature, last_rank, 0.0, id_bits, block)
    if top_p < 1:
        goal = top_p.to(tl.float64) * total
        by_weight = _search(source_ptr, size, top, temperature, goal, True, id_bits, block)
        last_rank = tl.minimum(last_rank, by_weight)
    total = _weigh(source_ptr, size, top, temperature, last_rank, min_p, id_bits, block)
    return _draw(source_ptr, size, top, temperature, last_rank, min_p, u * total, id_bits, block)


@triton.jit
def _sampling_filter_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, greatest_ptr, drawn_ptr, temperature_ptr, seed_ptr, position_ptr, filtered_ptr, top_k_ptr, top_p_ptr,
    min_p_ptr, sums_ptr, counts_ptr, values_ptr, ids_ptr, tokens_ptr, stride, size, num_parts, parts: tl.constexpr,
    buckets: tl.constexpr, room: tl.constexpr, id_bits: tl.constexpr, few: tl.constexpr, many: tl.constexpr,
    gather: tl.constexpr,
):  # fmt: skip
    """Draws a token for one row; what it may be, from few gathered ones or from the whole row."""
    i, part = tl.program_id(0).to(tl.int64), tl.arange(0, parts)
    draw = tl.load(filtered_ptr + i)
    row = tl.load(drawn_ptr + draw)
    top_k, top_p, min_p = tl.load(top_k_ptr + i), tl.load(top_p_ptr + i), tl.load(min_p_ptr + i)
    temperature, source_ptr = tl.load(temperature_ptr + draw), logits_ptr + row * stride
    top = tl.load(source_ptr + tl.load(greatest_ptr + row))
    total = tl.sum(tl.load(sums_ptr + draw * num_parts + part, mask=part < num_parts, other=0.0), axis=0)

    u = uniform(tl.load(seed_ptr + draw), tl.load(position_ptr + draw))

    reach = _reach(counts_ptr + draw * buckets, total, top_k, top_p, min_p, buckets)
    values_ptr, ids_ptr = values_ptr + i * room, ids_ptr + i * room
    # A little less than where the reach ends, whatever the rounding.
    least = top - reach * temperature * 1.0001 - tl.abs(top) * 1e-6
    count = _gather(source_ptr, size, least, values_ptr, ids_ptr, room, gather)
    # No token of a row of NaN passes.
    if (count > 0) & (count <= room):
        place = _select(values_ptr, count, top, temperature, top_k, top_p, min_p, total, u, id_bits, few)
        token = tl.load(ids_ptr + place)
    else:
        token = _select(source_ptr, size, top, temperature, top_k, top_p, min_p, total, u, id_bits, many)
    tl.store(tokens_ptr + row, token)


def select(logits: Tensor, rows: SamplingRows, greatest: Tensor, sums: Tensor, counts: Tensor, tokens: Tensor) -> None:
    """Draw a token for each row that filters.

    Args:
        greatest: int64 [num_rows], where each row's greatest logit is.
        sums: float64 [num_drawn, parts], weights of the row's parts.
        counts: int32 [num_drawn, BUCKETS].
        tokens: int64 [num_rows]; the rows that filter are overwritten.
    """
    size, num_parts, num_filtered = logits.shape[1], sums.shape[1], rows.filtered.shape[0]
    values = torch.empty(num_filtered, _ROOM, dtype=torch.float32, device=logits.device)
    ids = torch.empty(num_filtered, _ROOM, dtype=torch.int32, device=logits.device)
    _sampling_filter_kernel[(num_filtered,)](
        logits, greatest, rows.drawn, rows.temperature, rows.seed, rows.position, rows.filtered, rows.top_k, rows.top_p,
        rows.min_p, sums, counts, values, ids, tokens, logits.stride(0), size, num_parts,
        triton.next_power_of_2(num_parts), BUCKETS, _ROOM, max(_LEAST_ID_BITS, (size - 1).bit_length()), _FEW, _MANY,
        _GATHER, num_warps=_WARPS,
    )  # fmt: skip
