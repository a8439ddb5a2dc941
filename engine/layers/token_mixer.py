"""The `TokenMixer`: the part of a block in which tokens see each other."""

from typing import Protocol

from torch import Tensor

from quire.engine.layers.pick import Pick


class TokenMixer(Protocol):
    """Attention of some kind, with its projections."""

    def __call__(self, x: Tensor, positions: Tensor, pick: Pick) -> Tensor:
        """Hidden states of the tokens that go on, of [num_tokens, hidden_size].

        Args:
            positions: int64 [num_tokens].
        """
