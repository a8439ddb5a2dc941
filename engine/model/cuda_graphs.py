"""Generation steps as CUDA graphs: captured once per size, replayed with one launch.

rows    1 … n │ padding up to the next captured size
                position 0 of a block that belongs to nobody; nobody looks at what comes of these rows

A graph ends with the hidden states, in a buffer that all sizes share: logits are 32 times as large, and no graph need
keep its own.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from quire.engine.model.batch import Batch
from quire.kernels.attention.base import PagedBatch

logger = logging.getLogger(__name__)

_WARM_UPS: Final = 2


def graph_sizes(largest: int) -> list[int]:
    """Rows to capture: 1, 2, 4, 8, then every 8 to 256, then every 64, until `largest` is covered.

    >>> graph_sizes(20)
    [1, 2, 4, 8, 16, 24]
    """
    sizes = [1, 2, 4, 8]
    while sizes[-1] < largest:
        sizes.append(sizes[-1] + (8 if sizes[-1] < 256 else 64))
    return [size for i, size in enumerate(sizes) if i == 0 or sizes[i - 1] < largest]


def padded(paged: PagedBatch, spares: Tensor, positions: Tensor, slot_mapping: Tensor) -> PagedBatch:
    """Generation rows, and rows behind them of one token in the block that each entry of `spares` names.

    Args:
        spares: int32, on the device, all the same block.
        positions, slot_mapping: of all rows, on the device.
    """
    missing = len(spares)
    ones = np.ones(missing, np.int32)
    return PagedBatch(
        qo_indptr=np.arange(len(positions) + 1, dtype=np.int32),
        kv_indptr=np.concatenate((paged.kv_indptr, paged.kv_indptr[-1] + np.cumsum(ones, dtype=np.int32))),
        # The backends of graphs read the blocks on the device.
        kv_indices=paged.kv_indices,
        block_ids=torch.cat((paged.block_ids, spares)),
        kv_lens=np.concatenate((paged.kv_lens, ones)),
        positions=positions,
        slot_mapping=slot_mapping,
    )


@runtime_checkable
class GraphAttention(Protocol):
    """An attention backend whose generation steps can be captured."""

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """Make the buffers of generation steps of `num_rows` rows with up to `num_indices` blocks."""

    def plan_fixed(self, batch: PagedBatch) -> None:
        """As `plan`, for a size that was reserved."""


class CudaGraphs:
    """Replays generation steps.

    Args:
        attention: of every window of the model.
        forward: input_ids -> hidden states of every row, for what the attention was planned for.
        spare_block: a block of the pool that no sequence is given.
        max_blocks: of one sequence.
    """

    def __init__(
        self,
        attention: Sequence[GraphAttention],
        forward: Callable[[Tensor], Tensor],
        *,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        spare_block: int,
        device: torch.device,
    ) -> None:
        self._attention = attention
        self._forward = forward
        self._sizes = graph_sizes(max_rows)
        self._spare_slot = spare_block * block_size
        room = torch.zeros(3, self._sizes[-1], dtype=torch.int64, device=device)
        self._input_ids, self._positions, self._slots = room.unbind()
        self._hidden = torch.empty(0, device=device)
        self._spares = torch.full((self._sizes[-1],), spare_block, dtype=torch.int32, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._capture_all(max_blocks, device)

    def can_run(self, batch: Batch) -> bool:
        """Whether every row computes one token and samples, and a graph has room for all."""
        num_rows = len(batch.slots)
        return len(batch.input_ids) == num_rows == len(batch.sampling_slots) <= self._sizes[-1]

    def run(self, batch: Batch) -> Tensor:
        """Hidden states [num_rows, hidden_size]; they hold until the next run."""
        num_rows = len(batch.slots)
        size = next(size for size in self._sizes if size >= num_rows)
        self._input_ids[:num_rows].copy_(batch.input_ids)
        self._positions[:num_rows].copy_(batch.paged.positions)
        self._slots[:num_rows].copy_(batch.paged.slot_mapping)
        if num_rows < size:
            self._positions[num_rows:size].zero_()
            self._slots[num_rows:size].fill_(self._spare_slot)
        self._plan(batch.paged, size)
        self._graphs[size].replay()
        return self._hidden[:num_rows]

    def _plan(self, paged: PagedBatch, size: int) -> None:
        whole = padded(paged, self._spares[: size - len(paged.kv_lens)], self._positions[:size], self._slots[:size])
        for attention in self._attention:
            attention.plan_fixed(whole)

    def _capture_all(self, max_blocks: int, device: torch.device) -> None:
        began, before = time.perf_counter(), torch.cuda.mem_get_info(device)[0]
        pool = torch.cuda.graph_pool_handle()
        nothing, start = np.zeros(0, np.int32), np.zeros(1, np.int32)
        none = self._positions[:0]
        empty = PagedBatch(start, start, nothing, none.int(), nothing, none, none)
        self._slots.fill_(self._spare_slot)
        # The largest first, so that the others find their memory in its pool.
        for size in reversed(self._sizes):
            for attention in self._attention:
                attention.reserve(size, size * max_blocks)
            self._plan(empty, size)
            self._graphs[size] = self._capture(size, pool)
        torch.cuda.empty_cache()
        taken = (before - torch.cuda.mem_get_info(device)[0]) >> 20
        seconds = time.perf_counter() - began
        logger.info(
            "captured %d graphs up to %d rows in %.1f s, %d MiB", len(self._sizes), self._sizes[-1], seconds, taken
        )

    def _capture(self, size: int, pool: Any) -> torch.cuda.CUDAGraph:
        input_ids = self._input_ids[:size]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                hidden = self._forward(input_ids)
        torch.cuda.current_stream().wait_stream(stream)
        if len(self._hidden) < size:
            self._hidden = torch.empty_like(hidden)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._hidden[:size].copy_(self._forward(input_ids))
        return graph
