"""The two ends of a model: the `Embedding` of tokens, and the `Head` that gives logits."""

import logging

import torch
from torch import Tensor

from quire.engine.layers.build import Scope
from quire.engine.layers.matrix import Matrix
from quire.kernels.coded_weight import CodedWeight, Weight, int4, int8
from quire.kernels.linear import Linear

logger = logging.getLogger(__name__)


class Embedding:
    """Attributes:
    name: of the matrix in the checkpoint.
    shape: vocab_size and hidden_size.
    weight: of this shape; there once the weights are.
    """

    def __init__(self, scope: Scope, vocab_size: int, hidden_size: int, *, scale: float = 1.0) -> None:
        """
        Args:
            scale: what states are multiplied with, rounded to their type.
        """
        self._scale = torch.tensor(scale, dtype=scope.build.dtype).item()
        self.name, self.shape, self._build = f"{scope.name}.weight", (vocab_size, hidden_size), scope.build
        scope.require({"weight": self.shape}, self._load)
        self.weight: Tensor

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[num_tokens, hidden_size] of int64 [num_tokens]."""
        states = self._build.kernels.take_rows(self.weight, input_ids)
        return states if self._scale == 1 else states * self._scale

    def _load(self, name: str, tensor: Tensor) -> None:
        self.weight = self._build.empty(*self.shape)
        self.weight.copy_(tensor)


class Head:
    """Logits, float32 [num_rows, vocab_size], of normed hidden states.

    Attributes:
        shape: of its matrix.
        is_tied: that matrix is the embedding.
    """

    def __init__(
        self, scope: Scope, embedding: Embedding, *, tied: bool, scale: float = 1.0, soft_cap: float | None = None
    ) -> None:
        """
        Args:
            tied: whether the configuration says that the matrix is the embedding. Where the checkpoint has both, and
                they differ, both are used, as transformers 5 does.
            scale: of the logits.
            soft_cap: logits x become cap * tanh(x / cap); None: they stay.
        """
        self._scale, self._soft_cap = scale, soft_cap
        self._build, self._embedding = scope.build, embedding
        self._name = f"{scope.name}.weight"
        self._weight: Weight | None = None
        self.shape = embedding.shape
        stored = scope.build.stored
        self.is_tied = tied and not (self._name in stored and embedding.name in stored)
        self._claims_tie = tied
        if not self.is_tied:
            Matrix(scope, *self.shape, self._take)
        elif self._name in stored:
            # The one matrix there is bears the name of the other.
            scope.build.parameters[self._name] = scope.build.parameters.pop(embedding.name)
        scope.build.when_loaded.append(self._make)
        self.kernel: Linear

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.kernel(hidden)
        if self._scale != 1:
            logits *= self._scale
        if self._soft_cap is not None:
            logits.div_(self._soft_cap).tanh_().mul_(self._soft_cap)
        return logits

    def _take(self, weight: Weight) -> None:
        self._weight = weight

    def _make(self) -> None:
        weight, build = self._weight, self._build
        if weight is None or (self._claims_tie and isinstance(weight, Tensor) and self._is_embedding(weight)):
            weight = self._embedding.weight
        # Products of fp8 matrices are rounded to bfloat16, and 4-bit integers are few: too coarse for logits.
        if build.coding in (int8, int4) and not isinstance(weight, CodedWeight):
            weight = int8(weight)
        self._weight = None
        self.kernel = build.kernels.linear(weight, None, torch.float32)

    def _is_embedding(self, weight: Tensor) -> bool:
        if torch.equal(weight, self._embedding.weight):
            return True
        logger.warning(
            "tie_word_embeddings is true, but %s and %s differ: both are used, not tied",
            self._name, self._embedding.name,
        )  # fmt: skip
        return False
