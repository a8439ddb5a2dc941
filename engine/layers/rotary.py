"""The `Rotary` layer: rotary positions of queries and keys (Su et al., "RoFormer", 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quire.engine.layers.build import Build


class Rotary:
    """Rotates every head in halves: its pairs are (i, i + head_dim / 2).

    Families that rotate a part of the head, or neighbours, are computed alike. Scores do not depend on the order of a
    head's numbers, as long as queries and keys have the same: their projections' rows are put in `order`. Pairs that
    are not rotated have an angle of 0.

    Attributes:
        cos_sin: [max_model_len, head_dim] float32, see `quire.kernels.rope`.
        order: where the numbers of a head are in the checkpoint; None: where they are computed.
    """

    def __init__(
        self, build: Build, head_dim: int, inv_freq: tuple[float, ...], scale: float = 1.0, *, interleaved: bool = False
    ) -> None:
        """
        Args:
            inv_freq: radians per position of each pair that is rotated, exact in float32.
            scale: factor of their cosines and sines.
            interleaved: pairs are neighbours in the checkpoint; otherwise the two halves of what is rotated.
        """
        key = (head_dim, inv_freq, scale)
        if key not in build.tables:
            build.tables[key] = cos_sin_table(head_dim, inv_freq, scale, build.max_model_len, build.device)
        self.cos_sin = build.tables[key]
        order = _order(head_dim, len(inv_freq), interleaved)
        self.order = None if order == list(range(head_dim)) else tuple(order)

    def rows(self, num_heads: int) -> list[int]:
        """The rows of a projection to so many heads, in the order in which they are computed."""
        order = self.order or range(self.cos_sin.shape[1])
        return [head * len(order) + place for head in range(num_heads) for place in order]


def cos_sin_table(
    head_dim: int, inv_freq: Sequence[float], scale: float, num_positions: int, device: torch.device
) -> Tensor:
    """[num_positions, head_dim] float32: scaled cosines in the first half of a row, sines in the second."""
    if device.type == "meta":
        # What is known without weights needs no numbers, and to have them for it PyTorch would import its compiler.
        return torch.empty(num_positions, head_dim, device=device)
    frequencies = torch.tensor(inv_freq, dtype=torch.float32, device=device)
    angles = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None] * frequencies
    still = torch.zeros(num_positions, head_dim // 2 - len(inv_freq), device=device)
    return torch.cat((angles.cos() * scale, still + 1, angles.sin() * scale, still), dim=-1)


def _order(head_dim: int, num_pairs: int, interleaved: bool) -> list[int]:
    first = [2 * pair if interleaved else pair for pair in range(num_pairs)]
    second = [place + (1 if interleaved else num_pairs) for place in first]
    still = list(range(2 * num_pairs, head_dim))
    half = len(still) // 2
    return [*first, *still[:half], *second, *still[half:]]
