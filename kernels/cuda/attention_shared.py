"""Decoding of rows that share a prefix, in Triton: its keys and values are read once for the queries of all of them.

part 0    part 1   │ row 0      parts of a prefix: all queries of its rows, as one matrix
───────── ─────────│ row 1      what is left of each row: `TritonDecode`, which adds the parts
                   │ row 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton import language as tl

from quire.kernels.attention import AttentionSpec
from quire.kernels.cuda.attention_decode import (
    LOG2_E,
    Parts,
    TritonDecode,
    absorb,
    constants,
    nothing,
    part_buffers,
    store_part,
    whole,
)
from quire.kernels.cuda.kv_access import queries_for, readable
from quire.kernels.cuda.overlap import can_overlap, follow
from quire.kernels.cuda.shared_prefixes import SharedPrefix

# Queries and tokens of one step of a program, warps that compute it, and steps in flight.
_QUERIES: Final = 64
_TILE: Final = 32
_WARPS: Final = 4
_STAGES: Final = 4
# Programs that keep a device busy: two for each multiprocessor of an H100.
_PROGRAMS: Final = 264
# Tokens below which a part is not worth merging.
_LEAST_PART: Final = 256
# Numbers of 16 bytes: Triton compiles a kernel for arrays that begin at such an address, and another one for others.
_ALIGNED: Final = 4
# Numbers of a task: first member, members, tile of queries, first block, start, stop, part.
_TASK: Final = 7


@triton.jit(do_not_specialize=["num_rows"])
def _attention_shared_kernel(  # type: ignore[no-untyped-def]
    q_ptr, cache_ptr, highest_ptr, weights_ptr, totals_ptr, tasks_ptr, members_ptr, blocks_ptr, q_stride, scale,
    num_rows, overlaps: tl.constexpr, queries: tl.constexpr, tile: tl.constexpr, cap: tl.constexpr,
    num_kv_heads: tl.constexpr, groups: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr,
    block_size: tl.constexpr,
):  # fmt: skip
    task, head = tasks_ptr + tl.program_id(0) * 7, tl.program_id(1)
    start, stop, part = tl.load(task + 4), tl.load(task + 5), tl.load(task + 6)
    query = tl.load(task + 2) * queries + tl.arange(0, queries)
    here = query < tl.load(task + 1) * groups
    row = tl.load(members_ptr + tl.load(task) + query // groups, mask=here, other=0)
    lane, token = tl.arange(0, width), tl.arange(0, tile)
    real = here[:, None] & (lane < head_dim)[None, :]
    qo_head = head * groups + query % groups
    follow(overlaps)
    place = q_ptr + row.to(tl.int64)[:, None] * q_stride + qo_head[:, None] * head_dim + lane[None, :]
    q, divisor = queries_for(tl.load(place, mask=real, other=0.0), cache_ptr)
    scales = divisor * scale
    highest, weights, totals = nothing(cache_ptr, queries, width)
    blocks = blocks_ptr + tl.load(task + 3)
    for position in range(start, stop, tile):
        at = position + token
        highest, weights, totals = absorb(
            q, cache_ptr, blocks, at, at < stop, (at < stop)[None, :], head, highest, weights, totals, scales,
            cap, num_kv_heads, head_dim, width, block_size,
        )  # fmt: skip
    place = (part * num_rows + row) * (num_kv_heads * groups) + qo_head
    store_part(highest_ptr, weights_ptr, totals_ptr, place, here, highest, weights, whole(totals), real, head_dim)


@dataclass(frozen=True, slots=True, eq=False)
class Tasks:
    """What the programs of one key head do, and what is left to the rows.

    Attributes:
        tasks: int32 [num_tasks, 7].
        members: int32, the rows of all prefixes.
        skips, counts: int32 [num_rows], as in `Parts`.
    """

    tasks: NDArray[np.int32]
    members: NDArray[np.int32]
    skips: NDArray[np.int32]
    counts: NDArray[np.int32]


def plan_tasks(
    prefixes: Sequence[SharedPrefix], indptr: NDArray[np.int32], block_size: int, groups: int, num_kv_heads: int
) -> Tasks:
    """Cut prefixes into parts, and their queries into tiles, so that the device is busy.

    Args:
        indptr: blocks of each row, as in `PagedBatch`.
        groups: queries that share a key head.
    """
    num_rows = len(indptr) - 1
    skips, counts = np.zeros(num_rows, np.int32), np.zeros(num_rows, np.int32)
    tiles = [-(-len(prefix.rows) * groups // _QUERIES) for prefix in prefixes]
    wanted = -(-_PROGRAMS // (sum(tiles) * num_kv_heads))
    tasks, first = [], 0
    for prefix, num_tiles in zip(prefixes, tiles, strict=True):
        length = prefix.num_blocks * block_size
        num_parts = max(1, min(wanted, length // _LEAST_PART))
        bounds = np.linspace(0, prefix.num_blocks, num_parts + 1).astype(np.int64) * block_size
        skips[prefix.rows], counts[prefix.rows] = length, num_parts
        for part in range(num_parts):
            span = (int(indptr[prefix.rows[0]]), bounds[part], bounds[part + 1], part)
            tasks += [(first, len(prefix.rows), tile, *span) for tile in range(num_tiles)]
        first += len(prefix.rows)
    members = np.concatenate([prefix.rows for prefix in prefixes])
    return Tasks(np.array(tasks, np.int32).reshape(-1, _TASK), members, skips, counts)


class SharedDecode:
    """As a planned `TritonDecode`, for rows of which some share a prefix."""

    def __init__(self, spec: AttentionSpec, decode: TritonDecode, tasks: Tasks, blocks: Tensor) -> None:
        """
        Args:
            decode: planned for all rows.
            blocks: of all rows, on the device.
        """
        unaligned = (tasks.tasks.ravel(), tasks.members, tasks.skips, tasks.counts)
        arrays = [np.pad(array, (0, -len(array) % _ALIGNED)) for array in unaligned]
        there = torch.from_numpy(np.concatenate(arrays)).to(blocks.device, non_blocking=True)
        self._tasks, self._members, skips, counts = torch.split(there, [len(array) for array in arrays])
        self._num_tasks = len(tasks.tasks)
        buffers = part_buffers(int(tasks.counts.max()), len(tasks.skips), spec)
        self._parts = Parts(skips, counts, *buffers)
        self._spec, self._decode, self._blocks = spec, decode, blocks

    def run(self, q: Tensor, layer_kv: Tensor, out: Tensor, sinks: Tensor | None = None) -> None:
        """Runs as `TritonDecode` does."""
        spec, overlaps, parts = self._spec, can_overlap(q), self._parts
        _attention_shared_kernel[(self._num_tasks, spec.num_kv_heads)](
            q, readable(layer_kv), parts.highest, parts.weights, parts.totals, self._tasks, self._members,
            self._blocks, q.stride(0), LOG2_E / spec.divisor, len(q), overlaps, _QUERIES, _TILE, **constants(spec),
            num_warps=_WARPS, num_stages=_STAGES, launch_pdl=overlaps,
        )  # fmt: skip
        self._decode.run(q, layer_kv, out, sinks, parts)


def warm_up(spec: AttentionSpec) -> None:
    """Decode two rows that share a block, so that the first ones in earnest do not wait for a compiler."""
    pool = torch.zeros(3, 2, spec.block_size, spec.num_kv_heads, spec.head_dim, dtype=spec.stored, device=spec.device)
    q = torch.zeros(2, spec.num_qo_heads, spec.head_dim, dtype=spec.dtype, device=spec.device)
    indptr, table, last = (np.array(numbers, np.int32) for numbers in ((0, 2, 4), (0, 1, 0, 2), (1, 1)))
    indptr_there, blocks, last_there = (torch.from_numpy(each).to(spec.device) for each in (indptr, table, last))
    prefix = SharedPrefix(np.arange(2, dtype=np.int32), 1)
    groups = spec.num_qo_heads // spec.num_kv_heads
    tasks = plan_tasks([prefix], indptr, spec.block_size, groups, spec.num_kv_heads)
    decode = TritonDecode(spec, indptr_there, blocks, last_there)
    sinks = torch.zeros(spec.num_qo_heads, device=spec.device) if spec.has_sinks else None
    SharedDecode(spec, decode, tasks, blocks).run(q, pool, torch.empty_like(q), sinks)
