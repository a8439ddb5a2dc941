"""In Triton: the likeliest tokens of each part of a row, then those of the row; sums always in the same order.

A token's key has its logit, as an integer of the same order, above the complement of its id. The greater key is the
likelier token, and all keys differ.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.sampling_row import ordered

_PART: Final = 4096
_WARPS: Final = 8
# One kernel serves all numbers of most likely tokens up to this: it would be compiled while requests wait.
_MOST: Final = 20


@triton.jit
def _next(keys):  # type: ignore[no-untyped-def]
    """(greatest key, the keys without it)."""
    found = tl.max(keys, axis=0)
    return found, tl.where(keys == found, -0x8000000000000000, keys)


@triton.jit
def _id_of(key):  # type: ignore[no-untyped-def]
    return 0x7FFFFFFF - (key & 0x7FFFFFFF)


@triton.jit(do_not_specialize=["num_kept"])
def _parts(  # type: ignore[no-untyped-def]
    logits_ptr, rows_ptr, keys_ptr, tops_ptr, sums_ptr, stride, size, num_kept, block: tl.constexpr
):  # fmt: skip
    """Stores for a part: keys of its likeliest tokens, its greatest logit, and the sum of exp(logit - greatest)."""
    i, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at, column = i * tl.num_programs(1) + part, part * block + tl.arange(0, block)
    x = tl.load(logits_ptr + tl.load(rows_ptr + i) * stride + column, mask=column < size, other=float("-inf"))
    top = tl.max(x, axis=0)
    # The sum of a part with nothing but -inf is 0.
    tl.store(sums_ptr + at, tl.sum(tl.exp(x - tl.where(top > float("-inf"), top, 0.0)).to(tl.float64), axis=0))
    tl.store(tops_ptr + at, top)
    keys = (ordered(x).to(tl.int64) << 32) | (0x7FFFFFFF - column)
    keys = tl.where(column < size, keys, -0x8000000000000000)
    for j in range(num_kept):
        found, keys = _next(keys)
        tl.store(keys_ptr + at * num_kept + j, found)


@triton.jit(do_not_specialize=["num_kept", "num_top"])
def _whole(  # type: ignore[no-untyped-def]
    logits_ptr, tokens_ptr, rows_ptr, keys_ptr, tops_ptr, sums_ptr, values_ptr, ids_ptr, stride, num_parts, num_kept,
    num_top, parts: tl.constexpr, keys_block: tl.constexpr,
):  # fmt: skip
    i, part, place = tl.program_id(0).to(tl.int64), tl.arange(0, parts), tl.arange(0, keys_block)
    row = tl.load(rows_ptr + i)
    logits_ptr += row * stride
    num_keys = num_parts * num_kept
    keys = tl.load(keys_ptr + i * num_keys + place, mask=place < num_keys, other=-0x8000000000000000)
    top = tl.load(logits_ptr + _id_of(tl.max(keys, axis=0))).to(tl.float64)
    tops = tl.load(tops_ptr + i * num_parts + part, mask=part < num_parts, other=float("-inf")).to(tl.float64)
    sums = tl.load(sums_ptr + i * num_parts + part, mask=part < num_parts, other=0.0)
    # A top that is NaN or infinite makes every number of the row NaN.
    rest = tl.log(tl.sum(sums * tl.exp(tops - top), axis=0))
    values_ptr += i * (1 + num_top)
    own = tl.load(logits_ptr + tl.load(tokens_ptr + row)).to(tl.float64)
    tl.store(values_ptr, (own - top - rest).to(tl.float32))
    for j in range(num_top):
        found, keys = _next(keys)
        token = _id_of(found)
        tl.store(ids_ptr + i * num_top + j, token.to(tl.int32))
        tl.store(values_ptr + 1 + j, (tl.load(logits_ptr + token).to(tl.float64) - top - rest).to(tl.float32))


def logprobs(logits: Tensor, tokens: Tensor, rows: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """As the reference; logits are contiguous in their last dimension."""
    num_rows, size, device = rows.shape[0], logits.shape[1], logits.device
    num_parts, num_kept = triton.cdiv(size, _PART), max(num_top, 1)
    keys = torch.empty(num_rows, num_parts, num_kept, dtype=torch.int64, device=device)
    tops = torch.empty(num_rows, num_parts, dtype=torch.float32, device=device)
    sums = torch.empty(num_rows, num_parts, dtype=torch.float64, device=device)
    values = torch.empty(num_rows, 1 + num_top, dtype=torch.float32, device=device)
    ids = torch.empty(num_rows, num_top, dtype=torch.int32, device=device)
    _parts[(num_rows, num_parts)](
        logits, rows, keys, tops, sums, logits.stride(0), size, num_kept, _PART, num_warps=_WARPS
    )  # fmt: skip
    _whole[(num_rows,)](
        logits, tokens, rows, keys, tops, sums, values, ids, logits.stride(0), num_parts, num_kept, num_top,
        triton.next_power_of_2(num_parts), triton.next_power_of_2(num_parts * max(num_kept, _MOST)), num_warps=_WARPS,
    )  # fmt: skip
    return values, ids
