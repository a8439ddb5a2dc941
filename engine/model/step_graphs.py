"""`StepGraphs`: which CUDA graphs compute a step, and that no size appears for the first time while requests run.

To load a kernel the driver waits for the device, and cuBLAS has another kernel for about every eight rows. So the rows
that sample are padded to captured sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from quire.engine.layers.build import Build
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.linear import Linear
from quire.engine.model.adapted_model import AdaptedModel
from quire.engine.model.batch import Batch
from quire.engine.model.cuda_graphs import CudaGraphs, GraphAttention, graph_sizes, size_for
from quire.engine.model.graph_inputs import GraphInputs
from quire.engine.model.piecewise_graphs import PIECE_SIZES, PiecewiseGraphs

# Tokens of larger steps whose products are tried: first, end, step. Which kernel cuBLAS takes changes every 64 or more.
_UNCAPTURED: Final = (PIECE_SIZES[-1], 8193, 64)


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """What computes steps of one kind."""

    whole: CudaGraphs
    pieces: PiecewiseGraphs


class StepGraphs:
    """Captured at once; twice if the model takes adapters, as steps in which no token has one pay nothing for them.

    Args:
        build: what the model's layers were made with.
        linears: the model's products.
        attention: every backend of its attention, with the cache group that it reads.
        max_rows: sequences of a step.
        max_blocks: of one sequence.
        spare_block: a block of the pool that no sequence is given.
    """

    def __init__(
        self, model: DecoderModel, build: Build, linears: Sequence[Linear],
        attention: Sequence[tuple[GraphAttention, int]], *,
        max_rows: int, max_blocks: int, block_size: int, spare_block: int, num_groups: int = 1,
    ) -> None:  # fmt: skip
        self._model, self._sizes, self._attention = model, graph_sizes(max_rows), attention
        inputs = GraphInputs(max(self._sizes[-1], PIECE_SIZES[-1]), spare_block, block_size, build.device, num_groups)
        # One for all captures: PyTorch keeps a workspace of 32 MiB for the products of every stream.
        stream = torch.cuda.Stream(build.device)  # type: ignore[no-untyped-call]
        capture = partial(
            CudaGraphs, attention, inputs=inputs, stream=stream, sizes=self._sizes, max_blocks=max_blocks,
            spare_block=spare_block,
        )  # fmt: skip
        self._plain = _Captured(
            capture(model.hidden), PiecewiseGraphs(model, build.attention, attention, inputs, stream)
        )
        self._adapted: _Captured | None = None
        if (adapters := build.adapters) is not None:
            adapted = AdaptedModel(model, adapters, inputs.adapters)
            self._adapted = _Captured(
                capture(adapted.hidden, reserves=False),
                PiecewiseGraphs(adapted, build.attention, attention, inputs, stream),
            )
            adapters.plan(None)
        self._load_kernels(build, linears)

    def hidden(self, batch: Batch, rows: Tensor) -> Tensor:
        """Normed hidden states of new tokens, given by ascending indices; others may follow."""
        captured = self._plain if self._adapted is None or batch.adapters is None else self._adapted
        in_pieces = captured.pieces.can_run(batch)
        shares = in_pieces and any(each.shares(batch.paged[group]) for each, group in self._attention)
        if captured.whole.can_run(batch) and not shares:
            return captured.whole.run(batch)
        for attention, group in self._attention:
            attention.plan(batch.paged[group])
        if captured is self._plain:
            # Among tokens with adapters, as many rows as tokens are all of them.
            rows = self._padded(rows)
        if in_pieces:
            return captured.pieces.run(batch, rows)
        return self._model.hidden(batch.input_ids, batch.positions, rows)

    def _load_kernels(self, build: Build, linears: Sequence[Linear]) -> None:
        """Loads the kernels of the output layer, and of the products of steps that are not captured."""
        head, sizes = self._model.head, range(*_UNCAPTURED)
        hidden = torch.zeros(self._sizes[-1], head.shape[1], dtype=build.dtype, device=build.device)
        for size in self._sizes:
            head(hidden[:size])
        for linear in {(each.out, each.size): each for each in linears}.values():
            x = torch.zeros(sizes[-1], linear.size, dtype=build.dtype, device=build.device)
            for size in sizes:
                linear(x[:size])

    def _padded(self, rows: Tensor) -> Tensor:
        """The last one repeated. More rows than there are sequences belong to scored prompts and stay as they are."""
        if not 0 < len(rows) <= self._sizes[-1]:
            return rows
        missing = size_for(len(rows), self._sizes) - len(rows)
        return torch.cat((rows, rows[-1:].expand(missing)))
