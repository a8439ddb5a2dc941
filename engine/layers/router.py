"""Routers: which experts compute a token, and with what weights."""

from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from quire.engine.layers.linear import Linear

Routes: TypeAlias = tuple[Tensor, Tensor]
"""(ids, weights): int64 and float32 [num_tokens, top_k]."""


class Router(Protocol):
    """Looks at every token by itself."""

    def __call__(self, x: Tensor) -> Routes:
        """Of hidden states, [num_tokens, hidden_size]."""


class SoftmaxRouter:
    """The most probable experts, with their probabilities among all (Mixtral, Qwen3)."""

    def __init__(self, gate: Linear, top_k: int, *, normalises: bool = True) -> None:
        """
        Args:
            gate: to a logit of each expert.
            normalises: whether the weights of a token are made to sum up to 1.
        """
        self._gate, self._top_k, self._normalises = gate, top_k, normalises

    def __call__(self, x: Tensor) -> Routes:
        weights, ids = self._gate(x).float().softmax(-1).topk(self._top_k, dim=-1)
        return ids, weights / weights.sum(-1, keepdim=True) if self._normalises else weights


class TopSoftmaxRouter:
    """The experts with the highest logits, with their probabilities among these (gpt-oss)."""

    def __init__(self, gate: Linear, top_k: int) -> None:
        self._gate, self._top_k = gate, top_k

    def __call__(self, x: Tensor) -> Routes:
        logits, ids = self._gate(x).topk(self._top_k, dim=-1)
        return ids, torch.softmax(logits.float(), dim=-1)


class GroupedRouter:
    """The best experts of the best groups (DeepSeek-V2 and V3).

    Args:
        gate: to a logit of each expert.
        groups: how many there are, and from how many of them a token's experts may be; None: groups do not count.
        scale: of the weights.
        normalises: whether the weights of a token are made to sum up to 1 before.

    Attributes:
        correction: float32 [num_experts]; scores are sigmoids, to which it is added where they are compared, and the
            best two stand for their group. None: scores are probabilities, and the best one does.
    """

    def __init__(
        self, gate: Linear, top_k: int, groups: tuple[int, int] | None, scale: float, normalises: bool
    ) -> None:
        self._gate, self._top_k, self._groups = gate, top_k, groups
        self._scale, self._normalises = scale, normalises
        self.correction: Tensor | None = None

    def take_correction(self, name: str, tensor: Tensor) -> None:
        """Of the checkpoint."""
        self.correction = tensor.float()

    def __call__(self, x: Tensor) -> Routes:
        logits = self._gate(x).float()
        if self.correction is None:
            scores = logits.softmax(-1)
            compared = self._limited(scores, 1, 0.0)
        else:
            scores = logits.sigmoid()
            compared = self._limited(scores + self.correction, 2, float("-inf"))
        ids = compared.topk(self._top_k, dim=-1).indices
        weights = scores.gather(1, ids)
        if self._normalises:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return ids, weights * self._scale

    def _limited(self, scores: Tensor, num_best: int, lowest: float) -> Tensor:
        """Scores of the best groups by the sum of their best few; others become `lowest`."""
        if self._groups is None:
            return scores
        num_groups, num_chosen = self._groups
        grouped = scores.view(len(scores), num_groups, scores.shape[1] // num_groups)
        chosen = grouped.topk(num_best, dim=-1).values.sum(-1).topk(num_chosen, dim=-1).indices
        is_left_out = torch.ones(len(scores), num_groups, dtype=torch.bool, device=scores.device)
        return grouped.masked_fill(is_left_out.scatter_(1, chosen, False)[..., None], lowest).flatten(1)
