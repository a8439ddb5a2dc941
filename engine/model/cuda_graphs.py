"""Generation steps as CUDA graphs: captured once per size, replayed with one launch.

rows    1 … n │ padding up to the next captured size
                position 0 of a block that no sequence holds; results of these rows are ignored

A graph ends with the hidden states, in a buffer that all sizes share. Logits are 32 times as large; no graph keeps its
own.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from quire.engine.model.batch import Batch
from quire.engine.model.graph_inputs import GraphInputs
from quire.kernels.attention import PagedBatch

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


def size_for(count: int, sizes: Sequence[int]) -> int:
    """The least that is enough of ascending sizes.

    >>> size_for(3, [1, 2, 4])
    4
    """
    return next(size for size in sizes if size >= count)


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
    """An `AttentionBackend` whose generation steps can be captured."""

    def plan(self, batch: PagedBatch) -> None:
        """Plans as the backend does."""

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """Make the buffers of generation steps of `num_rows` rows with up to `num_indices` blocks."""

    def plan_fixed(self, batch: PagedBatch) -> None:
        """Plans a step of a reserved size."""

    def shares(self, batch: PagedBatch) -> bool:
        """Whether generation rows share so much that `plan` is better for them."""

    def place(self, positions: Tensor, slot_mapping: Tensor) -> None:
        """What `append` reads until the next plan, as in `PagedBatch`."""

    def run(self, layer_kv: Tensor, q: Tensor, out: Tensor | None = None, *, sinks: Tensor | None = None) -> Tensor:
        """As `AttentionBackend.run`, into `out` where it is given."""


class CudaGraphs:
    """Replays generation steps.

    Args:
        attention: every backend of the model, with the cache group that it reads.
        forward: (input_ids, positions) -> hidden states of every row, for what the attention was planned for.
        inputs: room for the largest size.
        stream: where graphs are captured.
        sizes: ascending numbers of rows, see `graph_sizes`.
        spare_block: a block of the pool that no sequence is given.
        max_blocks: of one sequence.
        reserves: the attention's buffers are made; False: they are those of other graphs of these sizes.
    """

    def __init__(
        self,
        attention: Sequence[tuple[GraphAttention, int]],
        forward: Callable[[Tensor, Tensor], Tensor],
        inputs: GraphInputs,
        stream: torch.cuda.Stream,
        *,
        sizes: Sequence[int],
        max_blocks: int,
        spare_block: int,
        reserves: bool = True,
    ) -> None:
        self._attention, self._reserves = attention, reserves
        self._forward = forward
        self._inputs = inputs
        self._stream = stream
        self._sizes = sizes
        device = inputs.input_ids.device
        self._hidden = torch.empty(0, device=device)
        self._spares = torch.full((self._sizes[-1],), spare_block, dtype=torch.int32, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._capture_all(max_blocks, device)

    def can_run(self, batch: Batch) -> bool:
        """Whether every row computes one token and samples, and a graph has room for all."""
        num_rows = len(batch.slots)
        return len(batch.input_ids) == num_rows == len(batch.sampling_slots) <= self._sizes[-1]

    def run(self, batch: Batch) -> Tensor:
        """Hidden states of all rows, and of those that pad them; they hold until the next run."""
        num_rows = len(batch.slots)
        size = size_for(num_rows, self._sizes)
        self._inputs.fill(batch, size)
        self._plan(batch.paged, size)
        self._graphs[size].replay()
        return self._hidden[:size]

    def _plan(self, paged: Sequence[PagedBatch], size: int) -> None:
        spares, positions = self._spares[: size - len(paged[0].kv_lens)], self._inputs.positions[:size]
        whole = [
            padded(each, spares, positions, slots[:size]) for each, slots in zip(paged, self._inputs.slots, strict=True)
        ]
        for attention, group in self._attention:
            attention.plan_fixed(whole[group])

    def _capture_all(self, max_blocks: int, device: torch.device) -> None:
        torch.cuda.empty_cache()  # what others have left there is not what graphs take
        began, before = time.perf_counter(), torch.cuda.mem_get_info(device)[0]
        pool = torch.cuda.graph_pool_handle()
        nothing, start = np.zeros(0, np.int32), np.zeros(1, np.int32)
        none = self._inputs.positions[:0]
        empty = [PagedBatch(start, start, nothing, none.int(), nothing, none, none)] * len(self._inputs.slots)
        # The largest first, so that the others find their memory in its pool.
        for size in reversed(self._sizes):
            for attention, _ in self._attention if self._reserves else ():
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
        inputs = self._inputs.input_ids[:size], self._inputs.positions[:size]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                hidden = self._forward(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        if len(self._hidden) < size:
            self._hidden = torch.empty_like(hidden)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            self._hidden[:size].copy_(self._forward(*inputs))
        return graph
