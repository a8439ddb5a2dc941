"""A mixture of experts of many rows in Triton: rows sorted by expert, grouped products on tensor cores.

Four kernels: `order` of the rows by expert; two grouped products, of which the first gates; the weighted sums. A block
of rows has one expert. How many blocks there are is known on the device only, so as many programs are launched as
there can be, and those beyond end at once: nothing waits for the host, and a CUDA graph holds for any choice.
"""

from typing import Final, NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.activation import Activation
from quire.kernels.cuda.activation import gate_of
from quire.kernels.cuda.expert_stack import ExpertStack
from quire.kernels.cuda.overlap import can_overlap, follow

_BLOCK: Final = 1024


class Tile(NamedTuple):
    """What a program of a product computes, and how."""

    rows: int
    columns: int
    chunk: int
    warps: int
    stages: int


class Order(NamedTuple):
    """Rows of experts one behind the other.

    Attributes:
        pairs: int32 [num_tokens * top_k], token * top_k + k of every row.
        firsts, counts: int32 [num_experts]: where the rows of each begin, and how many there are.
    """

    pairs: Tensor
    firsts: Tensor
    counts: Tensor


def tile_of(num_rows: int, num_experts: int) -> Tile:
    """By the rows of an expert on average: few wait for memory, many for multipliers."""
    average = num_rows / num_experts
    if average <= 16:
        return Tile(16, 32, 128, 4, 4)
    return Tile(64, 64, 64, 4, 3) if average <= 96 else Tile(128, 64, 64, 8, 3)


@triton.jit
def _order_kernel(  # type: ignore[no-untyped-def]
    ids_ptr, pairs_ptr, first_ptr, count_ptr, num_pairs, overlaps: tl.constexpr, block: tl.constexpr
):
    expert, lane = tl.program_id(0), tl.arange(0, block)
    follow(overlaps)
    smaller, same = tl.zeros([block], tl.int32), tl.zeros([block], tl.int32)
    for start in range(0, num_pairs, block):
        inside = lane < num_pairs - start
        ids = tl.load(ids_ptr + start + lane, mask=inside, other=0).to(tl.int32)
        smaller += (inside & (ids < expert)).to(tl.int32)
        same += (inside & (ids == expert)).to(tl.int32)
    place, count = tl.sum(smaller, axis=0), tl.sum(same, axis=0)
    tl.store(first_ptr + expert, place)
    tl.store(count_ptr + expert, count)
    if count > 0:
        for start in range(0, num_pairs, block):
            inside = lane < num_pairs - start
            ids = tl.load(ids_ptr + start + lane, mask=inside, other=0).to(tl.int32)
            chosen = inside & (ids == expert)
            ranks = tl.cumsum(chosen.to(tl.int32), axis=0)
            tl.store(pairs_ptr + place + ranks - 1, start + lane, mask=chosen)
            place += tl.sum(chosen.to(tl.int32), axis=0)


@triton.jit
def _product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, pairs_ptr, first_ptr, count_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, num_experts, top_k, width, depth,
    alpha, limit, kind: tl.constexpr, has_scale: tl.constexpr, has_bias: tl.constexpr, overlaps: tl.constexpr,
    experts: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    # With a gate: of tokens' rows, to sorted ones. Without: of sorted rows, to those of (token, k).
    is_gated: tl.constexpr = kind > 0
    block, each = tl.program_id(1), tl.arange(0, experts)
    follow(overlaps)
    counts = tl.load(count_ptr + each, mask=each < num_experts, other=0)
    blocks = (counts + rows - 1) // rows
    ends = tl.cumsum(blocks, axis=0)
    expert = tl.sum((ends <= block).to(tl.int32), axis=0)
    if expert < num_experts:
        block_in_expert = block - tl.sum(tl.where(each < expert, blocks, 0), axis=0)
        lane, row = tl.arange(0, chunk), block_in_expert * rows + tl.arange(0, rows)
        inside = row < tl.load(count_ptr + expert)
        place = tl.load(first_ptr + expert) + row
        pair = tl.load(pairs_ptr + place, mask=inside, other=0)
        source = pair // top_k if is_gated else place
        target = place if is_gated else pair
        column = tl.program_id(0) * columns + tl.arange(0, columns)
        # The last program reads the last column again where there are no more: a mask costs more.
        out_row = expert.to(tl.int64) * (2 * width if is_gated else width) + tl.minimum(column, width - 1)
        x_place = x_ptr + source.to(tl.int64)[:, None] * depth + lane[None, :]
        place_of = weight_ptr + out_row[None, :] * depth + lane[:, None]
        total, ups = tl.zeros([rows, columns], tl.float32), tl.zeros([rows, columns], tl.float32)
        for start in range(0, depth, chunk):
            there = lane < depth - start
            x = tl.load(x_place + start, mask=inside[:, None] & there[None, :], other=0.0)
            w = tl.load(place_of + start, mask=there[:, None], other=0.0).to(x.dtype)
            total = tl.dot(x, w, total, input_precision="ieee")
            if is_gated:
                w = tl.load(place_of + width * depth + start, mask=there[:, None], other=0.0).to(x.dtype)
                ups = tl.dot(x, w, ups, input_precision="ieee")
        if has_scale:
            total *= tl.load(scale_ptr + out_row)[None, :]
        if has_bias:
            total += tl.load(bias_ptr + out_row).to(tl.float32)[None, :]
        if is_gated:
            if has_scale:
                ups *= tl.load(scale_ptr + out_row + width)[None, :]
            if has_bias:
                ups += tl.load(bias_ptr + out_row + width).to(tl.float32)[None, :]
            total = gate_of(total, ups, kind, alpha, limit)
        to = out_ptr + target.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(to, total.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (column < width)[None, :])


@triton.jit
def _add_kernel(  # type: ignore[no-untyped-def]
    part_ptr, share_ptr, out_ptr, top_k, hidden, overlaps: tl.constexpr, block: tl.constexpr
):
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = column < hidden
    follow(overlaps)
    total = tl.zeros([block], tl.float32)
    for k in range(top_k):
        pair = token * top_k + k
        part = tl.load(part_ptr + pair * hidden + column, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(share_ptr + pair) * part
    tl.store(out_ptr + token * hidden + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def order(expert_ids: Tensor, num_experts: int) -> Order:
    """By expert, then as they are."""
    num_pairs, overlaps = expert_ids.numel(), can_overlap(expert_ids)
    pairs, firsts, counts = (
        torch.empty(size, dtype=torch.int32, device=expert_ids.device) for size in (num_pairs, num_experts, num_experts)
    )
    _order_kernel[(num_experts,)](expert_ids, pairs, firsts, counts, num_pairs, overlaps, _BLOCK, launch_pdl=overlaps)
    return Order(pairs, firsts, counts)


def grouped_product(
    x: Tensor, rows: Order, top_k: int, stack: ExpertStack, activation: Activation | None, tile: Tile
) -> Tensor:
    """[num_tokens * top_k, size]: with an activation, of x [num_tokens, in] to rows in `rows`' order; without, of
    rows in that order to those of (token, k)."""
    num_rows, (num_experts, out, depth) = len(rows.pairs), stack.weight.shape
    width = out if activation is None else out // 2
    result, overlaps = torch.empty((num_rows, width), dtype=x.dtype, device=x.device), can_overlap(x)
    kind, alpha, limit = (0, 0.0, 0.0) if activation is None else (
        int(activation.gate), activation.alpha, activation.limit
    )  # fmt: skip
    # Every expert may have one block that is not full, and no block is empty.
    num_blocks = min(num_rows, num_rows // tile.rows + num_experts)
    _product_kernel[(triton.cdiv(width, tile.columns), num_blocks)](
        x, *rows, stack.weight, stack.scale, stack.bias, result, num_experts, top_k, width,
        depth, alpha, limit, kind, stack.scale is not None, stack.bias is not None, overlaps,
        triton.next_power_of_2(num_experts), tile.rows, tile.columns, tile.chunk, num_warps=tile.warps,
        num_stages=tile.stages, launch_pdl=overlaps,
    )  # fmt: skip
    return result


def grouped_experts(
    x: Tensor, expert_ids: Tensor, weights: Tensor, gate_up: ExpertStack, down: ExpertStack, activation: Activation
) -> Tensor:
    """As `quire.kernels.experts` has it."""
    (num_tokens, top_k), num_experts = expert_ids.shape, len(gate_up.weight)
    rows, tile = order(expert_ids, num_experts), tile_of(expert_ids.numel(), num_experts)
    inner = grouped_product(x, rows, top_k, gate_up, activation, tile)
    parts = grouped_product(inner, rows, top_k, down, None, tile)
    out, hidden, overlaps = torch.empty_like(x), x.shape[1], can_overlap(x)
    _add_kernel[(num_tokens, triton.cdiv(hidden, _BLOCK))](
        parts, weights, out, top_k, hidden, overlaps, _BLOCK, launch_pdl=overlaps
    )
    return out
