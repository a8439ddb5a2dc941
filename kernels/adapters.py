"""Low-rank adapters beside products (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).

    y[t] += x[t] @ down.T @ up.T        with the adapter of token t, if it has one

An adapter lies in a place, of a fixed number. Tokens of any adapters, and of none, are computed together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from quire.kernels.gated_linear import GatedLinear
from quire.kernels.linear import Linear

NO_PLACE: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to some of a product's results.

    Attributes:
        down: [rank, in], of the type of the product's rows.
        up: [out of these results, rank], of the same type; the adapter's scale is in it.
        first: which result is the first of these.
    """

    down: Tensor
    up: Tensor
    first: int


class AdapterRows:
    """Which tokens of a step have which adapter; one object for all products of a model.

    Attributes:
        num_places: adapters that may be there at once.
        max_rank: of the matrices of a part of a product.
        places: int32 [num_tokens], on the device of the model: the place of each token's adapter, or `NO_PLACE`; None:
            no token of the step has one.
        kept: alike, of the tokens that go on behind the last attention.
    """

    def __init__(self, num_places: int, max_rank: int = 64) -> None:
        self.num_places, self.max_rank = num_places, max_rank
        self.places: Tensor | None = None
        self.kept: Tensor | None = None

    def plan(self, places: Tensor | None, rows: Tensor | None = None) -> None:
        """Of the next step.

        Args:
            rows: int64, ascending: which tokens go on behind the last attention; None: all.
        """
        self.places = places
        self.kept = places if places is None or rows is None else places[rows]

    def of(self, x: Tensor) -> Tensor | None:
        """The places of the rows of a product's input: those of all tokens, or of those that go on."""
        return self.places if self.places is None or len(self.places) == len(x) else self.kept


@runtime_checkable
class AdaptedLinear(Linear, Protocol):
    """A linear layer that takes adapters."""

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        """Put an adapter's parts, whose results are apart, in a place that no token of a running step has. None: it
        adds nothing to this product."""


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """What is known of the adapters that a layer will take.

    Attributes:
        rows: of the model.
        out: results of the layer, before an activation.
        num_parts: parts of the layer at most that an adapter has matrices for.
        device: of the layer.
    """

    rows: AdapterRows
    out: int
    num_parts: int
    device: torch.device


LinearAdapter: TypeAlias = Callable[[Linear, Adaptation], AdaptedLinear]
"""A layer that computes what the given one does, and what adapters add to it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceAdaptedLinear:
    """Implements `AdaptedLinear`; one adapter after the other."""

    linear: Linear
    rows: AdapterRows
    adapters: dict[int, tuple[LowRank, ...]]

    def __call__(self, x: Tensor) -> Tensor:
        y, places = self.linear(x), self.rows.of(x)
        if places is None:
            return y
        for place in torch.unique(places).tolist():
            rows = (places == place).nonzero()[:, 0]
            for part in self.adapters.get(place, ()):
                added = x[rows].float() @ part.down.float().T @ part.up.float().T
                results = slice(part.first, part.first + len(part.up))
                y[rows, results] = (y[rows, results].float() + added).to(y.dtype)
        return y

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        self.adapters[place] = tuple(parts)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedGatedLinear:
    """Implements `AdaptedLinear`: adapters add to what gates and what is gated."""

    linear: GatedLinear
    gate_up: AdaptedLinear

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def adapt(self, place: int, parts: Sequence[LowRank]) -> None:
        self.gate_up.adapt(place, parts)


def adapts_products(product: LinearAdapter) -> LinearAdapter:
    """Of one for products alone, one for gated layers, too."""

    def adapt(linear: Linear, adaptation: Adaptation) -> AdaptedLinear:
        if not isinstance(linear, GatedLinear):
            return product(linear, adaptation)
        gate_up = product(linear.gate_up, adaptation)
        return AdaptedGatedLinear(replace(linear, gate_up=gate_up), gate_up)

    return adapt


def adapted(linear: Linear, adaptation: Adaptation) -> AdaptedLinear:
    """A `LinearAdapter`: the reference, for any layer."""
    return _REFERENCE(linear, adaptation)


_REFERENCE: Final = adapts_products(lambda linear, adaptation: ReferenceAdaptedLinear(linear, adaptation.rows, {}))


def total_rank(parts: Iterable[LowRank]) -> int:
    """Of all parts together."""
    return sum(len(part.down) for part in parts)


def stacked(parts: Sequence[LowRank], out: int, num_ranks: int) -> tuple[Tensor, Tensor]:
    """All parts as one: down [num_ranks, in] and up [out, num_ranks], with zeros where a part has nothing.

    Args:
        out: results of the product.
        num_ranks: at least `total_rank`.
    """
    first = parts[0]
    down = first.down.new_zeros(num_ranks, first.down.shape[1])
    up = first.up.new_zeros(out, num_ranks)
    begin = 0
    for part in parts:
        end = begin + len(part.down)
        down[begin:end] = part.down
        up[part.first : part.first + len(part.up), begin:end] = part.up
        begin = end
    return down, up
