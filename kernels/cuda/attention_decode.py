"""Decoding in Triton: a program takes the queries that share a key head, over all keys of its row.

Where rows are too few to keep the device busy, several programs share a row's keys, and a second kernel merges their
parts ("Flash-Decoding", Dao et al., 2023). Softmax is summed up on the way (Milakov and Gimelshein, "Online normalizer
calculation for softmax", 2018).
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.attention import AttentionSpec
from quire.kernels.cuda.kv_access import halves, numbers_of, queries_for, readable
from quire.kernels.cuda.overlap import can_overlap, follow

# Of tensor cores; what is missing in a group of queries are zeros.
_LEAST_ROWS: Final = 16
LOG2_E: Final = 1.4426950408889634
# Tokens of one step of a program, warps that compute it, and steps in flight; of an fp8 cache others. With these a
# layer of Llama-3.1-8B with 256 rows of 1,500 tokens in fp8 takes an H200 205 µs, of which its bytes take 185.
_TILE: Final = (64, 2, 3)
_NARROW_TILE: Final = (32, 1, 5)
# Programs that keep a device busy, and into how many a row is split at most. One row of 1,024 tokens takes an H200 7 µs
# a layer, where FlashInfer takes 11, and one of 65,536 takes 68 instead of 73.
_PROGRAMS: Final = 512
_MOST_SPLITS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Partial results for each row's first tokens: softmax over some of them, not yet divided by its weight.

    Attributes:
        skips: int32 [num_rows], tokens that are done.
        counts: int32 [num_rows], parts there are of them.
        highest, weights: float32 [parts, num_rows, num_qo_heads]: greatest score, in powers of two, and sum of 2 to the
            scores less that.
        totals: float32 [parts, num_rows, num_qo_heads, head_dim], weighted values.
    """

    skips: Tensor
    counts: Tensor
    highest: Tensor
    weights: Tensor
    totals: Tensor


@triton.jit
def nothing(cache_ptr, queries: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """(highest, weights, totals) as of `absorb`, before the first token. Highest is below all scores, and a number: a
    query may see nothing of the first tokens."""
    numbers: tl.constexpr = numbers_of(cache_ptr.dtype.element_ty)
    total = tl.zeros([queries, width // numbers], tl.float32)
    totals = (total, total) if numbers == 2 else (total,)
    return tl.full([queries], -1e30, tl.float32), tl.zeros([queries], tl.float32), totals


@triton.jit
def absorb(  # type: ignore[no-untyped-def]
    q, cache_ptr, blocks_ptr, at, there, visible, head, highest, weights, totals, scale, cap: tl.constexpr,
    num_kv_heads: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    """Add some tokens of a row to its queries' softmax.

    Args:
        q: operands, as of `queries_for`; zeros from head_dim on.
        blocks_ptr: the row's blocks.
        at, there: positions, and whether the row has them.
        visible: [1 or queries, positions], whether queries see them.
        highest, weights, totals: [queries], [queries] and a tuple as q is of the tokens before.
        scale: [queries], of products that become scores, in powers of two.
        cap: of scores as they were; no cap if 0.
    """
    numbers: tl.constexpr = numbers_of(cache_ptr.dtype.element_ty)
    size: tl.constexpr = head_dim // numbers
    lane = tl.arange(0, width // numbers)
    side: tl.constexpr = block_size * num_kv_heads * size
    block = tl.load(blocks_ptr + at // block_size, mask=there, other=0)
    place = block.to(tl.int64) * (2 * side) + (at % block_size) * (num_kv_heads * size) + head * size
    key = cache_ptr + place[:, None] + lane[None, :]
    inside = there[:, None]
    if width > head_dim:
        inside = inside & (lane < size)[None, :]
    k = tl.trans(tl.load(key, mask=inside, other=0))
    if numbers == 2:
        first, second = halves(k)
        scores = tl.dot(q[1], second, tl.dot(q[0], first))
    else:
        scores = tl.dot(q[0], k)
    scores *= scale[:, None]
    if cap > 0:
        # cap * tanh(x / cap), where x is a power of two's exponent, as the result is.
        scores = (1.4426950408889634 * cap) * (1 - 2 / (tl.exp2(scores * (2 / cap)) + 1))
    scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    shares, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(highest - higher)
    weights = weights * shrink + tl.sum(shares, axis=1)
    v, shares = tl.load(key + side, mask=inside, other=0), shares.to(q[0].dtype)
    if numbers == 2:
        first, second = halves(v)
        totals = (
            tl.dot(shares, first, totals[0] * shrink[:, None]),
            tl.dot(shares, second, totals[1] * shrink[:, None]),
        )
    else:
        totals = (tl.dot(shares, v, totals[0] * shrink[:, None]),)
    return higher, weights, totals


@triton.jit
def whole(totals):  # type: ignore[no-untyped-def]
    """[queries, width] of the totals of `absorb`."""
    return tl.interleave(totals[0], totals[1]) if len(totals) == 2 else totals[0]


@triton.jit
def absorb_sinks(sinks_ptr, head, there, highest, weights, total):  # type: ignore[no-untyped-def]
    """Add the sinks of some query heads, [queries], to their softmax."""
    sink = tl.load(sinks_ptr + head, mask=there, other=float("-inf")) * 1.4426950408889634
    higher = tl.maximum(highest, sink)
    shrink = tl.exp2(highest - higher)
    return weights * shrink + tl.exp2(sink - higher), total * shrink[:, None]


@triton.jit
def store_part(  # type: ignore[no-untyped-def]
    highest_ptr, weights_ptr, totals_ptr, place, there, highest, weights, total, real, head_dim: tl.constexpr
):  # fmt: skip
    """Store the softmax of some queries over some tokens, as in `Parts`; place: [queries]; real: [queries, width]."""
    lane = tl.arange(0, total.shape[1])
    tl.store(highest_ptr + place, highest, mask=there)
    tl.store(weights_ptr + place, weights, mask=there)
    tl.store(totals_ptr + place.to(tl.int64)[:, None] * head_dim + lane[None, :], total, mask=real)


@triton.jit(do_not_specialize=["num_rows"])
def _attention_merge_kernel(  # type: ignore[no-untyped-def]
    highest_ptr, weights_ptr, totals_ptr, sinks_ptr, out_ptr, num_rows, overlaps: tl.constexpr, splits: tl.constexpr,
    has_sinks: tl.constexpr, num_heads: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    query, lane = tl.program_id(0), tl.arange(0, width)
    place = tl.arange(0, splits) * (num_rows * num_heads) + query
    real = (lane < head_dim)[None, :]
    follow(overlaps)
    theirs, shares = tl.load(highest_ptr + place), tl.load(weights_ptr + place)
    totals = tl.load(totals_ptr + place.to(tl.int64)[:, None] * head_dim + lane[None, :], mask=real, other=0.0)
    highest = tl.full([1], tl.max(theirs, axis=0), tl.float32)
    shrink = tl.exp2(theirs - highest)
    weights = tl.full([1], tl.sum(shares * shrink, axis=0), tl.float32)
    total = tl.sum(totals * shrink[:, None], axis=0)[None, :]
    if has_sinks:
        head = query % num_heads + tl.arange(0, 1)
        weights, total = absorb_sinks(sinks_ptr, head, head >= 0, highest, weights, total)
    result = (total / weights[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + query.to(tl.int64) * head_dim + lane[None, :], result, mask=real)


@triton.jit(do_not_specialize=["num_rows"])
def _attention_decode_kernel(  # type: ignore[no-untyped-def]
    q_ptr, cache_ptr, out_ptr, indptr_ptr, blocks_ptr, last_ptr, skips_ptr, counts_ptr, highest_ptr, weights_ptr,
    totals_ptr, sinks_ptr, q_stride, scale, num_rows, overlaps: tl.constexpr, splits: tl.constexpr,
    has_parts: tl.constexpr, has_sinks: tl.constexpr, window: tl.constexpr, padded: tl.constexpr, tile: tl.constexpr,
    cap: tl.constexpr, num_kv_heads: tl.constexpr, groups: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr,
    block_size: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0) // num_kv_heads, tl.program_id(0) % num_kv_heads
    group, lane, token = tl.arange(0, padded), tl.arange(0, width), tl.arange(0, tile)
    real = (group < groups)[:, None] & (lane < head_dim)[None, :]
    first = tl.load(indptr_ptr + row)
    length = (tl.load(indptr_ptr + row + 1) - first - 1) * block_size + tl.load(last_ptr + row)
    start = tl.load(skips_ptr + row) if has_parts else 0
    if window > 0:
        start = tl.maximum(length - window, 0)
    stop = length
    if splits > 1:
        share = tl.cdiv(tl.cdiv(length - start, splits), tile) * tile
        start += tl.program_id(1) * share
        stop = tl.minimum(length, start + share)
    query = (head * groups + group)[:, None] * head_dim + lane[None, :]
    follow(overlaps)
    q, divisor = queries_for(tl.load(q_ptr + row.to(tl.int64) * q_stride + query, mask=real, other=0.0), cache_ptr)
    scales = divisor * scale
    highest, weights, totals = nothing(cache_ptr, padded, width)
    for position in range(start, stop, tile):
        at = position + token
        highest, weights, totals = absorb(
            q, cache_ptr, blocks_ptr + first, at, at < stop, (at < stop)[None, :], head, highest, weights, totals,
            scales, cap, num_kv_heads, head_dim, width, block_size,
        )  # fmt: skip
    total = whole(totals)
    if splits > 1:
        place = (tl.program_id(1) * num_rows + row) * (num_kv_heads * groups) + head * groups + group
        store_part(highest_ptr, weights_ptr, totals_ptr, place, group < groups, highest, weights, total, real, head_dim)
        return
    if has_parts:
        for part in range(tl.load(counts_ptr + row)):
            place = (part * num_rows + row).to(tl.int64) * (num_kv_heads * groups) + head * groups + group
            theirs = tl.load(highest_ptr + place, mask=group < groups, other=float("-inf"))
            higher = tl.maximum(highest, theirs)
            shrink, share = tl.exp2(highest - higher), tl.exp2(theirs - higher)
            weights = weights * shrink + tl.load(weights_ptr + place, mask=group < groups, other=0.0) * share
            values = totals_ptr + place[:, None] * head_dim + lane[None, :]
            values = tl.load(values, mask=real, other=0.0)
            total = total * shrink[:, None] + values * share[:, None]
            highest = higher
    if has_sinks:
        weights, total = absorb_sinks(sinks_ptr, head * groups + group, group < groups, highest, weights, total)
    result = (total / weights[:, None]).to(out_ptr.dtype.element_ty)
    place = out_ptr + row.to(tl.int64) * (num_kv_heads * groups * head_dim) + query
    tl.store(place, result, mask=real)


def constants(spec: AttentionSpec) -> dict[str, float]:
    """What kernels are compiled for beside their tiles."""
    return {
        "cap": spec.logits_soft_cap or 0.0,
        "num_kv_heads": spec.num_kv_heads,
        "groups": spec.num_qo_heads // spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "width": triton.next_power_of_2(spec.head_dim),
        "block_size": spec.block_size,
    }


class TritonDecode:
    """One token of each row; planned and run as FlashInfer's wrappers are."""

    def __init__(self, spec: AttentionSpec, indptr: Tensor, blocks: Tensor, last_page_len: Tensor) -> None:
        """
        Args:
            indptr, blocks, last_page_len: buffers on the device that plans are written to.
        """
        self._spec, self._indptr, self._blocks, self._last = spec, indptr, blocks, last_page_len

    def plan(
        self, indptr: Tensor, blocks: Tensor, last_page_len: Tensor, num_qo_heads: int, num_kv_heads: int,
        head_dim: int, block_size: int, **types: object,
    ) -> None:  # fmt: skip
        """Stores the arguments of `run`."""
        self._indptr[: len(indptr)].copy_(indptr, non_blocking=True)
        self._blocks[: len(blocks)].copy_(blocks, non_blocking=True)
        self._last[: len(last_page_len)].copy_(last_page_len, non_blocking=True)

    def run(
        self, q: Tensor, layer_kv: Tensor, out: Tensor, sinks: Tensor | None = None, parts: Parts | None = None
    ) -> None:
        """Into `out`, [num_rows, num_qo_heads, head_dim], contiguous; q alike, but rows need not follow each other."""
        spec, num_rows, overlaps, none = self._spec, len(q), can_overlap(q), self._indptr
        padded = max(_LEAST_ROWS, triton.next_power_of_2(spec.num_qo_heads // spec.num_kv_heads))
        tile, warps, stages = _TILE if spec.stored == spec.dtype else _NARROW_TILE
        splits = 1 if parts is not None else num_splits(num_rows * spec.num_kv_heads)
        done = (none,) * 5 if parts is None else (parts.skips, parts.counts, parts.highest, parts.weights, parts.totals)
        if splits > 1:
            done = (none, none, *part_buffers(splits, num_rows, spec))
        sink_scores = none if sinks is None else sinks
        _attention_decode_kernel[(num_rows * spec.num_kv_heads, splits)](
            q, readable(layer_kv), out, self._indptr, self._blocks, self._last, *done,
            sink_scores, q.stride(0), LOG2_E / spec.divisor, num_rows, overlaps, splits,
            parts is not None, sinks is not None, spec.sliding_window or 0, padded, tile, **constants(spec),
            num_warps=warps, num_stages=stages, launch_pdl=overlaps,
        )  # fmt: skip
        if splits > 1:
            _attention_merge_kernel[(num_rows * spec.num_qo_heads,)](
                *done[2:], sink_scores, out, num_rows, overlaps, splits, sinks is not None, spec.num_qo_heads,
                spec.head_dim, triton.next_power_of_2(spec.head_dim), launch_pdl=overlaps,
            )  # fmt: skip


def num_splits(num_programs: int) -> int:
    """Into how many programs each of so many is split, a power of two."""
    return min(_MOST_SPLITS, 1 << max(0, (_PROGRAMS // num_programs).bit_length() - 1))


def part_buffers(num_parts: int, num_rows: int, spec: AttentionSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Room for `highest`, `weights` and `totals` of `Parts`."""
    shape = (num_parts, num_rows, spec.num_qo_heads)
    highest, weights = (torch.empty(shape, dtype=torch.float32, device=spec.device) for _ in range(2))
    return highest, weights, torch.empty(*shape, spec.head_dim, dtype=torch.float32, device=spec.device)
