"""The `ComposedModel`: what an executor asks of a model, however it is computed."""

from typing import Protocol

from torch import Tensor


class ComposedModel(Protocol):
    """Computes once its weights are loaded and its attention is bound."""

    @property
    def num_head(self) -> int:
        """Parameters of the output layer."""

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding."""

    def fuse(self) -> None:
        """Compute several layers in one call where the kernels can; once all is loaded and bound."""

    def hidden(self, input_ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute new tokens and write their keys and values; the caller plans the attention.

        Args:
            input_ids, positions: int64 [num_tokens].
            rows: int64 [num_rows], ascending: the tokens whose states are wanted; None: all.

        Returns:
            Normed hidden states, [num_rows, hidden_size].
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of normed hidden states."""
