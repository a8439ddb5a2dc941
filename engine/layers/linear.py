"""The `Linear` layer: one product, of one matrix in the checkpoint or several that are merged."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from torch import Tensor, cat

from quire.engine.layers.build import Product, Scope
from quire.engine.layers.matrix import Matrix
from quire.kernels import linear as kernels
from quire.kernels.activation import Activation
from quire.kernels.adapters import Adaptation, AdaptedLinear, LowRank
from quire.kernels.coded_weight import CodedWeight, Weight, merged


class Linear:
    """x @ weight.T + bias, [num_tokens, out].

    Once all parts are there they are given to the kernels, which may lay them out anew.

    Attributes:
        name: of the scope that the parts' names are in.
        parts: rows of each matrix in the checkpoint, by name, in the order in which they are merged.
        size: columns.
        kernel: what computes; there once the weights are.
    """

    def __init__(
        self,
        scope: Scope,
        parts: Mapping[str, int],
        size: int,
        *,
        bias: bool = False,
        activation: Activation | None = None,
        orders: Mapping[str, Sequence[int]] = MappingProxyType({}),
        is_exact: bool = False,
    ) -> None:
        """
        Args:
            bias: whether each part has one.
            activation: of the first half of the product, which gates the second half; None: there is none.
            orders: rows of a part in the order in which they are computed, of parts where that is another one.
            is_exact: whether the matrix stays as it is where others are brought into codes.
        """
        self.name, self.parts, self.size = scope.name, dict(parts), size
        self._build, self._activation, self._orders = scope.build, activation, orders
        self._coding = None if is_exact else scope.build.coding
        self._weights: dict[str, Weight] = {}
        self._biases: dict[str, Tensor] = {}
        self._has_bias = bias
        scope.build.linears.append(self)
        scope.build.products.append(Product(self.out, size))
        for name, rows in parts.items():
            Matrix(scope.at(name), rows, size, partial(self._take, name))
        if bias:
            scope.require({f"{name}.bias": (rows,) for name, rows in parts.items()}, self._load_bias)
        self.kernel: kernels.Linear

    @property
    def out(self) -> int:
        """Rows of the whole matrix."""
        return sum(self.parts.values())

    def __call__(self, x: Tensor) -> Tensor:
        return self.kernel(x)

    def adapt(self, place: int, adapters: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Put what an adapter adds to these parts in a place, see `quire.kernels.adapters`.

        Args:
            adapters: by the name of a part: down [rank, size] and up [rows, rank], with rows as in the checkpoint.

        Raises:
            ValueError: the model was made without adapters.
        """
        if not isinstance(self.kernel, AdaptedLinear):
            raise ValueError(f"{self.name}: was made without adapters")
        dtype, device = self._build.dtype, self._build.device
        low_ranks, first = [], 0
        for name, rows in self.parts.items():
            if name in adapters:
                down, up = (tensor.to(device, dtype) for tensor in adapters[name])
                order = self._orders.get(name)
                low_ranks.append(LowRank(down, up if order is None else up[list(order)], first))
            first += rows
        self.kernel.adapt(place, low_ranks)

    def _take(self, name: str, weight: Weight) -> None:
        order = self._orders.get(name)
        if order is not None:
            weight = weight.rows(order) if isinstance(weight, CodedWeight) else weight[list(order)]
        self._weights[name] = weight
        self._complete()

    def _load_bias(self, name: str, tensor: Tensor) -> None:
        part = name.removesuffix(".bias")
        bias = tensor.to(self._build.dtype)
        self._biases[part] = bias[list(self._orders[part])] if part in self._orders else bias
        self._complete()

    def _complete(self) -> None:
        names = list(self.parts)
        if len(self._weights) < len(names) or len(self._biases) < (len(names) if self._has_bias else 0):
            return
        weight = merged([self._weights[name] for name in names])
        bias = cat([self._biases[name] for name in names]) if self._has_bias else None
        self._weights, self._biases = {}, {}
        if self._coding is not None and not isinstance(weight, CodedWeight):
            weight = self._coding(weight)
        suite, dtype = self._build.kernels, self._build.dtype
        if self._activation is None:
            kernel = suite.linear(weight, bias, dtype)
        else:
            kernel = suite.gated_linear(weight, bias, dtype, self._activation)
        if (rows := self._build.adapters) is not None:
            kernel = suite.adapted(kernel, Adaptation(rows, self.out, len(self.parts), self._build.device))
        self.kernel = kernel
