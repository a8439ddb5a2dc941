"""`StepGraphs`: which CUDA graphs compute a step, and that no size appears for the first time while requests run.

To load a kernel the driver waits for the device, and cuBLAS has another kernel for about every eight rows. So the rows
that sample are padded to captured sizes.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from quire.engine.model.batch import Batch
from quire.engine.model.cuda_graphs import CudaGraphs, GraphAttention, graph_sizes, size_for
from quire.engine.model.graph_inputs import GraphInputs
from quire.engine.model.piecewise_graphs import PIECE_SIZES, PiecewiseGraphs
from quire.engine.model.transformer import Transformer

# Tokens of larger steps whose products are tried: first, end, step. Which kernel cuBLAS takes changes every 64 or more.
_UNCAPTURED: Final = (PIECE_SIZES[-1], 8193, 64)


class StepGraphs:
    """Captured at once.

    Args:
        attention: of every block; several may share one.
        max_rows: sequences of a step.
        max_blocks: of one sequence.
        spare_block: a block of the pool that no sequence is given.
    """

    def __init__(
        self, transformer: Transformer, attention: Sequence[GraphAttention], *, max_rows: int, max_blocks: int,
        block_size: int, spare_block: int,
    ) -> None:  # fmt: skip
        self._transformer, self._sizes = transformer, graph_sizes(max_rows)
        self._windows = list(dict.fromkeys(attention))
        device = transformer.layers.embedding.device
        inputs = GraphInputs(max(self._sizes[-1], PIECE_SIZES[-1]), spare_block, block_size, device)
        # One for all captures: PyTorch keeps a workspace of 32 MiB for the products of every stream.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._whole = CudaGraphs(
            self._windows, transformer.hidden, inputs, stream, sizes=self._sizes, max_blocks=max_blocks,
            spare_block=spare_block,
        )  # fmt: skip
        self._pieces = PiecewiseGraphs(transformer, attention, inputs, stream)
        self._load_kernels()

    def hidden(self, batch: Batch, rows: Tensor) -> Tensor:
        """Normed hidden states of new tokens, given by ascending indices; others may follow."""
        in_pieces = self._pieces.can_run(batch)
        if self._whole.can_run(batch) and not (in_pieces and any(each.shares(batch.paged) for each in self._windows)):
            return self._whole.run(batch)
        for attention in self._windows:
            attention.plan(batch.paged)
        rows = self._padded(rows)
        if in_pieces:
            return self._pieces.run(batch, rows)
        return self._transformer.hidden(batch.input_ids, rows)

    def _load_kernels(self) -> None:
        """Loads the kernels of the output layer, and of the products of steps that are not captured."""
        transformer, embedding, sizes = self._transformer, self._transformer.layers.embedding, range(*_UNCAPTURED)
        shape, block = transformer.shape, transformer.layers.blocks[0]
        hidden = embedding.new_zeros(max(self._sizes[-1], sizes[-1]), embedding.shape[1])
        attended = embedding.new_zeros(sizes[-1], shape.num_qo_heads * shape.head_dim)
        for size in self._sizes:
            transformer.logits(hidden[:size])
        for size in sizes:
            block.qkv(transformer.finish(block, attended[:size], hidden[:size])[0])

    def _padded(self, rows: Tensor) -> Tensor:
        """The last one repeated. More rows than there are sequences belong to scored prompts and stay as they are."""
        if not 0 < len(rows) <= self._sizes[-1]:
            return rows
        missing = size_for(len(rows), self._sizes) - len(rows)
        return torch.cat((rows, rows[-1:].expand(missing)))
