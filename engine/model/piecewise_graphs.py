"""Steps with a little context as CUDA graphs, cut in pieces at every attention.

    up to queries │ attention │ … up to queries │ attention │ … │ the last block, as it is, of the rows that are wanted
    └── graph 0 ─┘             └─── graph 1 ───┘

The shape of a step's attention is another one each time: it is launched as it is. Launching every kernel by itself
takes the host longer than a thousand tokens take the device; larger steps hide it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from quire.engine.layers.attention import Attention
from quire.engine.layers.decoder import Block, Stream
from quire.engine.layers.embedding import Embedding
from quire.engine.model.batch import Batch
from quire.engine.model.cuda_graphs import GraphAttention, size_for
from quire.engine.model.graph_inputs import GraphInputs

logger = logging.getLogger(__name__)

PIECE_SIZES: Final[tuple[int, ...]] = (*range(64, 512, 64), *range(512, 1025, 128))
"""Tokens of the steps that are captured: finer steps would spare less than a twentieth."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A graph up to the queries of a layer, None behind the last of these, and where queries and results are."""

    graph: torch.cuda.CUDAGraph
    layer: Attention | None
    q: Tensor
    out: Tensor


class GraphModel(Protocol):
    """What is captured of a `DecoderModel`."""

    @property
    def embedding(self) -> Embedding:
        """As there."""

    @property
    def blocks(self) -> Sequence[Block]:
        """As there."""

    def hidden(self, input_ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """As there."""

    def first(self, input_ids: Tensor, positions: Tensor) -> Stream:
        """As there."""

    def last(self, x: Tensor, residual: Tensor | None, positions: Tensor, rows: Tensor | None) -> Tensor:
        """As there."""


class PiecewiseGraphs:
    """Replays what steps compute between their attention.

    Args:
        model: the caller plans its attention before a run.
        layers: of the model, those with attention.
        backends: of these layers, each with the cache group that it reads.
        inputs: room for the largest of `PIECE_SIZES`.
        stream: where graphs are captured.
    """

    def __init__(
        self,
        model: GraphModel,
        layers: Sequence[Attention],
        backends: Sequence[tuple[GraphAttention, int]],
        inputs: GraphInputs,
        stream: torch.cuda.Stream,
    ) -> None:
        self._model, self._layers, self._backends = model, layers, backends
        self._inputs, self._stream = inputs, stream
        embedding = model.embedding.weight
        widest = max(layer.shape.num_qo_heads * layer.shape.head_dim for layer in layers)
        self._q, self._out = (embedding.new_zeros(PIECE_SIZES[-1] * widest) for _ in range(2))
        self._x, self._residual = (embedding.new_zeros(PIECE_SIZES[-1], embedding.shape[1]) for _ in range(2))
        self._has_residual = len(model.blocks) > 1
        self._pieces: dict[int, list[_Piece]] = {}
        self._capture_all(embedding.device)

    def can_run(self, batch: Batch) -> bool:
        """Whether there is room for all tokens."""
        return len(batch.input_ids) <= PIECE_SIZES[-1]

    def run(self, batch: Batch, rows: Tensor) -> Tensor:
        """Hidden states of some tokens, as those of `DecoderModel.hidden`."""
        num_tokens = len(batch.input_ids)
        size = size_for(num_tokens, PIECE_SIZES)
        self._inputs.fill(batch, size)
        for piece in self._pieces[size]:
            piece.graph.replay()
            if piece.layer is not None:
                backend: Any = piece.layer.backend
                q, out = piece.q[:num_tokens], piece.out[:num_tokens]
                backend.run(piece.layer.layer_kv, q, out, sinks=piece.layer.sinks)
        self._place(size)
        residual = self._residual[:size] if self._has_residual else None
        return self._model.last(self._x[:size], residual, self._inputs.positions[:size], rows)

    def _place(self, size: int) -> None:
        """Keys and values of padding, too, have places."""
        for backend, group in self._backends:
            backend.place(self._inputs.positions[:size], self._inputs.slots[group][:size])

    def _capture_all(self, device: torch.device) -> None:
        began, before = time.perf_counter(), torch.cuda.mem_get_info(device)[0]
        pool = torch.cuda.graph_pool_handle()
        # The largest first, so that the others find their memory in its pool.
        for size in reversed(PIECE_SIZES):
            self._place(size)
            self._warm_up(size)
            self._pieces[size] = self._capture(size, pool)
        torch.cuda.empty_cache()
        taken = (before - torch.cuda.mem_get_info(device)[0]) >> 20
        seconds, count = time.perf_counter() - began, sum(map(len, self._pieces.values()))
        logger.info("captured %d pieces up to %d tokens in %.1f s, %d MiB", count, PIECE_SIZES[-1], seconds, taken)

    def _forward(self, size: int) -> None:
        """All that is captured, up to what the last block takes."""
        x, residual = self._model.first(self._inputs.input_ids[:size], self._inputs.positions[:size])
        self._x[:size].copy_(x)
        if residual is not None:
            self._residual[:size].copy_(residual)

    def _rooms(self, layer: Attention, size: int) -> tuple[Tensor, Tensor]:
        """Where the queries of a layer are, and what is attended to."""
        dims = (layer.shape.head_dim, layer.shape.value_dim or layer.shape.head_dim)
        shapes = [(size, layer.shape.num_qo_heads, dim) for dim in dims]
        q, out = (room[: prod(shape)].view(shape) for room, shape in zip((self._q, self._out), shapes, strict=True))
        return q, out

    def _warm_up(self, size: int) -> None:
        """Kernels are compiled and loaded by the first call."""
        for layer in self._layers:
            layer.cut = lambda layer, q: self._rooms(layer, len(q))[1]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._forward(size)
        torch.cuda.current_stream().wait_stream(self._stream)
        for layer in self._layers:
            layer.cut = None

    def _capture(self, size: int, pool: Any) -> list[_Piece]:
        pieces: list[_Piece] = []
        graphs = [torch.cuda.CUDAGraph()]
        for layer in self._layers:
            layer.cut = partial(self._cut, pieces, graphs, pool)
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            graphs[-1].capture_begin(pool=pool)
            self._forward(size)
            graphs[-1].capture_end()
        for layer in self._layers:
            layer.cut = None
        nothing = self._q[:0]
        return [*pieces, _Piece(graphs[-1], None, nothing, nothing)]

    def _cut(
        self, pieces: list[_Piece], graphs: list[torch.cuda.CUDAGraph], pool: Any, layer: Attention, q: Tensor
    ) -> Tensor:
        """Ends a graph behind the queries of a layer, and begins the next one."""
        room, out = self._rooms(layer, len(q))
        room.copy_(q)
        graphs[-1].capture_end()
        pieces.append(_Piece(graphs[-1], layer, room, out))
        graphs.append(torch.cuda.CUDAGraph())
        graphs[-1].capture_begin(pool=pool)
        return out
