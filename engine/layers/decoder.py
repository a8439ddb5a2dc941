"""The `Decoder` of tokens to hidden states to logits: a stack of blocks between an embedding and a head."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Protocol, TypeAlias

from torch import Tensor

from quire.engine.layers.build import Build
from quire.engine.layers.embedding import Embedding, Head
from quire.engine.layers.fused_blocks import FusedModel, fused
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick, everything

Stream: TypeAlias = tuple[Tensor, Tensor | None]
"""(x, residual), [num_tokens, hidden_size] each: the hidden states are their sum, which the next norm makes."""


class Block(Protocol):
    """One block of a decoder."""

    def __call__(self, x: Tensor, residual: Tensor | None, positions: Tensor, pick: Pick) -> Stream:
        """
        Args:
            positions: int64 [num_tokens].
            pick: which tokens go on behind the attention.
        """


class DecoderModel:
    """Attributes:
    embedding, blocks, norm, head: what it is composed of.
    """

    def __init__(self, build: Build, embedding: Embedding, blocks: Sequence[Block], norm: RmsNorm, head: Head) -> None:
        self.embedding, self.blocks, self.norm, self.head = embedding, tuple(blocks), norm, head
        self._take_rows = build.kernels.take_rows
        self._kernels = build.kernels
        self._fused: FusedModel | None = None

    @property
    def num_head(self) -> int:
        """Parameters of the output layer."""
        return prod(self.head.shape)

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.head.is_tied

    def fuse(self) -> None:
        """Compute all blocks in one call, where the kernels do that for blocks like these; once all is loaded and
        bound."""
        self._fused = fused(self._kernels, self.blocks, self.norm)

    def hidden(self, input_ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute new tokens and write their keys and values; the caller plans the attention.

        Args:
            input_ids, positions: int64 [num_tokens].
            rows: int64 [num_rows], ascending: the tokens whose states are wanted; None: all.

        Returns:
            Normed hidden states, [num_rows, hidden_size].
        """
        if self._fused is not None:
            return self._fused(self.embedding(input_ids), rows)
        return self.last(*self.first(input_ids, positions), positions, rows)

    def first(self, input_ids: Tensor, positions: Tensor) -> Stream:
        """Before the last block."""
        x, residual = self.embedding(input_ids), None
        for block in self.blocks[:-1]:
            x, residual = block(x, residual, positions, everything)
        return x, residual

    def last(self, x: Tensor, residual: Tensor | None, positions: Tensor, rows: Tensor | None) -> Tensor:
        """The last block and the norm behind it."""
        pick = everything if rows is None else partial(self._pick, rows)
        x, residual = self.blocks[-1](x, residual, positions, pick)
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of normed hidden states."""
        return self.head(hidden)

    def _pick(self, rows: Tensor, x: Tensor) -> Tensor:
        return self._take_rows(x, rows)
