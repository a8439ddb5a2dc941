"""Steps with a little context as CUDA graphs, piece by piece: all that lies between the attention of two blocks.

    embed, project │ attention │ finish, project │ attention │ … │ attention │ finish, of the rows that sample
    └── graph 0 ──┘             └── graph 1 ────┘

The shape of a step's attention is another one each time: it is launched as it is. Launching every kernel by itself
takes the host longer than a thousand tokens take the device; larger steps hide it.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from quire.engine.model.batch import Batch
from quire.engine.model.cuda_graphs import GraphAttention, size_for
from quire.engine.model.graph_inputs import GraphInputs
from quire.engine.model.transformer import Transformer

logger = logging.getLogger(__name__)

PIECE_SIZES: Final[tuple[int, ...]] = (*range(64, 512, 64), *range(512, 1025, 128))
"""Tokens of the steps that are captured: finer steps would spare less than a twentieth."""


class PiecewiseGraphs:
    """Replays what steps compute between their attention.

    Args:
        transformer: the caller plans its attention before a run.
        attention: of every block.
        inputs: room for the largest of `PIECE_SIZES`.
        stream: where graphs are captured.
    """

    def __init__(
        self,
        transformer: Transformer,
        attention: Sequence[GraphAttention],
        inputs: GraphInputs,
        stream: torch.cuda.Stream,
    ) -> None:
        self._transformer, self._attention, self._inputs = transformer, attention, inputs
        self._stream = stream
        shape, embedding = transformer.shape, transformer.layers.embedding
        room = (PIECE_SIZES[-1], shape.num_qo_heads, shape.head_dim)
        self._q, self._attended = (embedding.new_zeros(room) for _ in range(2))
        self._residual = embedding.new_zeros(PIECE_SIZES[-1], embedding.shape[1])
        self._graphs: dict[int, list[torch.cuda.CUDAGraph]] = {}
        self._capture_all(embedding.device)

    def can_run(self, batch: Batch) -> bool:
        """Whether there is room for all tokens."""
        return int(batch.paged.qo_indptr[-1]) <= PIECE_SIZES[-1]

    def run(self, batch: Batch, rows: Tensor) -> Tensor:
        """Hidden states of some tokens, as those of `Transformer.hidden`."""
        num_tokens, transformer = len(batch.input_ids), self._transformer
        size = size_for(num_tokens, PIECE_SIZES)
        self._inputs.fill(batch, size)
        q, attended, blocks = self._q[:num_tokens], self._attended[:num_tokens], transformer.layers.blocks
        for block, attention, graph in zip(blocks, self._attention, self._graphs[size], strict=True):
            graph.replay()
            attention.run(block.layer_kv, q, attended)
        return transformer.finish_rows(blocks[-1], attended.flatten(1), self._residual[:num_tokens], rows)

    def _piece(self, index: int, size: int) -> None:
        transformer, blocks = self._transformer, self._transformer.layers.blocks
        if index == 0:
            x, residual = transformer.embed(self._inputs.input_ids[:size])
        else:
            attended = self._attended[:size].flatten(1)
            x, residual = transformer.finish(blocks[index - 1], attended, self._residual[:size])
        self._q[:size].copy_(transformer.project(blocks[index], x))
        self._residual[:size].copy_(residual)

    def _capture_all(self, device: torch.device) -> None:
        began, before = time.perf_counter(), torch.cuda.mem_get_info(device)[0]
        pool = torch.cuda.graph_pool_handle()
        # The largest first, so that the others find their memory in its pool.
        for size in reversed(PIECE_SIZES):
            for attention in self._attention:
                attention.place(self._inputs.positions[:size], self._inputs.slots[:size])
            self._warm_up(size)
            self._graphs[size] = [self._capture(i, size, pool) for i in range(len(self._transformer.layers.blocks))]
        torch.cuda.empty_cache()
        taken = (before - torch.cuda.mem_get_info(device)[0]) >> 20
        seconds, count = time.perf_counter() - began, sum(map(len, self._graphs.values()))
        logger.info("captured %d pieces up to %d tokens in %.1f s, %d MiB", count, PIECE_SIZES[-1], seconds, taken)

    def _warm_up(self, size: int) -> None:
        """Kernels are compiled and loaded by the first call; those of the second piece are all the others'."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for index in range(min(2, len(self._transformer.layers.blocks))):
                self._piece(index, size)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self, index: int, size: int, pool: Any) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            self._piece(index, size)
        return graph
