"""The `Experts` layer: gated networks of which each token passes through a few; `MixtureOfExperts` adds a router."""

from functools import partial

from torch import Tensor

from quire.engine.layers.build import Scope
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.matrix import Matrix
from quire.engine.layers.router import Router
from quire.kernels import experts as kernels
from quire.kernels.activation import Activation
from quire.kernels.coded_weight import CodedWeight, Weight, merged
from quire.kernels.experts import ExpertsShape, ExpertWeights


class Experts:
    """Their weights come one network at a time, and are given to the kernels as soon as a network is complete.

    Attributes:
        shape: sizes.
        top_k: networks that a token passes through.
        kernel: what computes.
    """

    def __init__(self, scope: Scope, shape: ExpertsShape, top_k: int, activation: Activation) -> None:
        self.shape, self.top_k = shape, top_k
        self._build = scope.build
        self.kernel: kernels.Experts = scope.build.kernels.experts(shape, activation)
        scope.build.experts.append(self)

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """[num_tokens, hidden] of x; ids and weights are [num_tokens, top_k]."""
        return self.kernel(x, ids, weights)

    def take(self, expert: int, network: ExpertWeights) -> None:
        """One network's weights, of any type and anywhere."""
        gate_up_bias, down_bias = network.gate_up_bias, network.down_bias
        own = ExpertWeights(
            self._matrix(network.gate_up),
            self._matrix(network.down),
            None if gate_up_bias is None else self._own(gate_up_bias),
            None if down_bias is None else self._own(down_bias),
        )
        self.kernel.load(expert, own)

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._build.device, dtype=self._build.dtype).contiguous()

    def _matrix(self, weight: Weight) -> Weight:
        if isinstance(weight, CodedWeight):
            return weight
        own = self._own(weight)
        return own if self._build.coding is None else self._build.coding(own)


class SeparateExperts(Experts):
    """Of checkpoints that have a matrix for each part of each network."""

    def __init__(
        self,
        scope: Scope,
        shape: ExpertsShape,
        top_k: int,
        activation: Activation,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        """
        Args:
            names: of gate, up and down.
        """
        super().__init__(scope, shape, top_k, activation)
        self._names = names
        self._parts: dict[int, dict[str, Weight]] = {}
        gate, up, down = names
        sizes = {gate: (shape.size, shape.hidden), up: (shape.size, shape.hidden), down: (shape.hidden, shape.size)}
        for expert in range(shape.num_experts):
            for name, size in sizes.items():
                Matrix(scope.at(expert, name), *size, partial(self._collect, expert, name))

    def _collect(self, expert: int, name: str, weight: Weight) -> None:
        parts = self._parts.setdefault(expert, {})
        parts[name] = weight
        if len(parts) == len(self._names):
            gate, up, down = (parts[each] for each in self._names)
            del self._parts[expert]
            self.take(expert, ExpertWeights(merged([gate, up]), down))


class MixtureOfExperts:
    """Implements `FeedForward`: the experts that a router chooses, and maybe one that every token passes through.

    Attributes:
        router, experts: who chooses, and of whom.
        shared: None: there is none.
    """

    def __init__(self, router: Router, experts: Experts, shared: FeedForward | None = None) -> None:
        self.router, self.experts, self.shared = router, experts, shared

    def __call__(self, x: Tensor) -> Tensor:
        routed = self.experts(x, *self.router(x))
        return routed if self.shared is None else routed + self.shared(x)
