"""Rotation and append in one Triton kernel: a program takes some heads of a token's queries, or of its keys and values.

Queries are rotated in place; keys go to the cache rotated, values as they are.
"""

from typing import Final

import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.kv_access import store, writable
from quire.kernels.cuda.overlap import can_overlap, follow

# Of one program, which loads the token's cosines and sines once.
_HEADS: Final = 8


@triton.jit
def _rope_append_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, cache_ptr, cos_sin_ptr, positions_ptr, slots_ptr, q_stride, k_stride, v_stride, num_qo_heads,
    num_kv_heads, block_size, half: tl.constexpr, block: tl.constexpr, heads: tl.constexpr, overlaps: tl.constexpr,
):  # fmt: skip
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, block)[None, :]
    follow(overlaps)
    angle = tl.load(positions_ptr + token) * (2 * half) + lane
    cos = tl.load(cos_sin_ptr + angle, mask=lane < half, other=0.0)
    sin = tl.load(cos_sin_ptr + angle + half, mask=lane < half, other=0.0)
    q_groups = tl.cdiv(num_qo_heads, heads)
    if group < q_groups:
        head = group * heads + tl.arange(0, heads)[:, None]
        inside = (lane < half) & (head < num_qo_heads)
        place = q_ptr + token * q_stride + head * (2 * half) + lane
        first, second = tl.load(place, mask=inside).to(tl.float32), tl.load(place + half, mask=inside).to(tl.float32)
        tl.store(place, (first * cos - second * sin).to(q_ptr.dtype.element_ty), mask=inside)
        tl.store(place + half, (second * cos + first * sin).to(q_ptr.dtype.element_ty), mask=inside)
    else:
        head = (group - q_groups) * heads + tl.arange(0, heads)[:, None]
        inside = (lane < half) & (head < num_kv_heads)
        slot = tl.load(slots_ptr + token)
        page, offset = slot // block_size, slot % block_size
        row = num_kv_heads * (2 * half)
        side = block_size * row
        to = cache_ptr + page * (2 * side) + offset * row + head * (2 * half) + lane
        key = k_ptr + token * k_stride + head * (2 * half) + lane
        value = v_ptr + token * v_stride + head * (2 * half) + lane
        first, second = tl.load(key, mask=inside).to(tl.float32), tl.load(key + half, mask=inside).to(tl.float32)
        left, right = tl.load(value, mask=inside), tl.load(value + half, mask=inside)
        # Rounded to the keys' own type first, as the reference does.
        store(to, (first * cos - second * sin).to(k_ptr.dtype.element_ty), inside)
        store(to + half, (second * cos + first * sin).to(k_ptr.dtype.element_ty), inside)
        store(to + side, left, inside)
        store(to + side + half, right, inside)


def rope_append(
    layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor
) -> None:
    """As `rope`, then `kv_append`, but that k stays as it was.

    Args:
        layer_kv: [num_blocks, 2, block_size, num_kv_heads, head_dim], contiguous.
        q, k, v: [num_tokens, heads, head_dim]; heads follow each other, rows need not.
    """
    num_tokens, num_qo_heads, head_dim = q.shape
    if num_tokens:
        half, overlaps = head_dim // 2, can_overlap(q)
        groups = triton.cdiv(num_qo_heads, _HEADS) + triton.cdiv(k.shape[1], _HEADS)
        _rope_append_kernel[(num_tokens, groups)](
            q, k, v, writable(layer_kv), cos_sin, positions, slot_mapping, q.stride(0), k.stride(0), v.stride(0),
            num_qo_heads, k.shape[1], layer_kv.shape[2], half, triton.next_power_of_2(half), _HEADS, overlaps,
            num_warps=1, launch_pdl=overlaps,
        )  # fmt: skip
