"""A mixture of experts of few rows in Triton, bound by the bytes of the chosen networks' weights.

Two kernels: the inner activations of every (token, k), then the sums over k. Programs read rows of the matrices as they
lie, multiply without tensor cores and add up in float32, as in row_product.py. A network that two tokens choose is read
twice, the second time probably from the cache.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.activation import Activation
from quire.kernels.cuda.activation import gate_of
from quire.kernels.cuda.expert_stack import ExpertStack
from quire.kernels.cuda.overlap import can_overlap, follow

# Weights of one program and step: one warp, whose loads are issued two steps ahead.
_TILE: Final = 2048
_COLUMNS: Final = 2
_STAGES: Final = 3


@triton.jit
def _inner_kernel(  # type: ignore[no-untyped-def]
    x_ptr, ids_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, top_k, size, depth, alpha, limit,
    kind: tl.constexpr, has_scale: tl.constexpr, has_bias: tl.constexpr, overlaps: tl.constexpr,
    columns: tl.constexpr, chunk: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    pair, column = tl.program_id(1), tl.program_id(0) * columns + tl.arange(0, columns)
    inside, lane = column < size, tl.arange(0, chunk)
    follow(overlaps)
    gate_row = tl.load(ids_ptr + pair).to(tl.int64) * 2 * size + tl.minimum(column, size - 1)
    place = weight_ptr + gate_row[:, None] * depth + lane[None, :]
    x_place = x_ptr + (pair // top_k).to(tl.int64) * depth + lane
    gates, ups = tl.zeros([columns, chunk], tl.float32), tl.zeros([columns, chunk], tl.float32)
    for start in tl.range(0, depth, chunk, num_stages=stages):
        there = lane < depth - start
        x = tl.load(x_place + start, mask=there, other=0.0).to(tl.float32)[None, :]
        gates += tl.load(place + start, mask=there[None, :], other=0.0).to(tl.float32) * x
        ups += tl.load(place + size * depth + start, mask=there[None, :], other=0.0).to(tl.float32) * x
    gate, up = tl.sum(gates, axis=1), tl.sum(ups, axis=1)
    if has_scale:
        gate *= tl.load(scale_ptr + gate_row)
        up *= tl.load(scale_ptr + gate_row + size)
    if has_bias:
        gate += tl.load(bias_ptr + gate_row).to(tl.float32)
        up += tl.load(bias_ptr + gate_row + size).to(tl.float32)
    value = gate_of(gate, up, kind, alpha, limit)
    tl.store(out_ptr + pair.to(tl.int64) * size + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _outer_kernel(  # type: ignore[no-untyped-def]
    inner_ptr, ids_ptr, share_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, top_k, hidden, depth,
    has_scale: tl.constexpr, has_bias: tl.constexpr, overlaps: tl.constexpr, networks: tl.constexpr,
    chunk: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    token, column = tl.program_id(1), tl.program_id(0)
    k, lane = tl.arange(0, networks), tl.arange(0, chunk)
    chosen, pair = k < top_k, token * top_k + k
    follow(overlaps)
    row = tl.load(ids_ptr + pair, mask=chosen, other=0).to(tl.int64) * hidden + column
    share = tl.load(share_ptr + pair, mask=chosen, other=0.0)
    place = weight_ptr + row[:, None] * depth + lane[None, :]
    inner_place = inner_ptr + pair.to(tl.int64)[:, None] * depth + lane[None, :]
    total = tl.zeros([networks, chunk], tl.float32)
    for start in tl.range(0, depth, chunk, num_stages=stages):
        there = chosen[:, None] & (lane < depth - start)[None, :]
        inner = tl.load(inner_place + start, mask=there, other=0.0).to(tl.float32)
        total += tl.load(place + start, mask=there, other=0.0).to(tl.float32) * inner
    value = tl.sum(total, axis=1)
    if has_scale:
        value *= tl.load(scale_ptr + row)
    if has_bias:
        value += tl.load(bias_ptr + row).to(tl.float32)
    result = tl.sum(share * value, axis=0)
    tl.store(out_ptr + token.to(tl.int64) * hidden + column, result.to(out_ptr.dtype.element_ty))


def row_experts(
    x: Tensor, expert_ids: Tensor, weights: Tensor, gate_up: ExpertStack, down: ExpertStack, activation: Activation
) -> Tensor:
    """As `quire.kernels.experts` has it."""
    (num_tokens, top_k), (_, hidden, size) = expert_ids.shape, down.weight.shape
    overlaps = can_overlap(x)
    inner = torch.empty((num_tokens * top_k, size), dtype=x.dtype, device=x.device)
    out = torch.empty_like(x)
    _inner_kernel[(triton.cdiv(size, _COLUMNS), num_tokens * top_k)](
        x, expert_ids, gate_up.weight, gate_up.scale, gate_up.bias, inner, top_k, size, hidden,
        activation.alpha, activation.limit, int(activation.gate), gate_up.scale is not None,
        gate_up.bias is not None, overlaps, _COLUMNS, _TILE // (2 * _COLUMNS), _STAGES, num_warps=1,
        launch_pdl=overlaps,
    )  # fmt: skip
    networks = triton.next_power_of_2(top_k)
    _outer_kernel[(hidden, num_tokens)](
        inner, expert_ids, weights, down.weight, down.scale, down.bias, out, top_k, hidden, size,
        down.scale is not None, down.bias is not None, overlaps, networks, max(16, _TILE // networks), _STAGES,
        num_warps=1, launch_pdl=overlaps,
    )  # fmt: skip
    return out
