"""Root mean square norms."""

from torch import Tensor

from quire.engine.layers.build import Scope


class RmsNorm:
    """Over the last dimension.

    Attributes:
        weight: [size]; there once the weights are. In float32 where something is added to it: numbers near 1 are coarse
            in narrower types.
        eps: added to the mean square.
        offset: what the weight is more than in the checkpoint.
    """

    def __init__(self, scope: Scope, size: int, eps: float, *, offset: float = 0.0) -> None:
        """
        Args:
            offset: what the weight is more than in the checkpoint.
        """
        self.size, self.eps, self.offset = size, eps, offset
        self._build = scope.build
        scope.require({"weight": (size,)}, self._load)
        self.weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Of x, [..., size]."""
        return self._build.kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + residual, and x + residual; without a residual, x alone."""
        if residual is None:
            return self(x), x
        return self._build.kernels.add_rms_norm(x, residual, self.weight, self.eps)

    def _load(self, name: str, tensor: Tensor) -> None:
        if self.offset:
            self.weight = tensor.float() + self.offset
        else:
            self.weight = self._build.empty(self.size).copy_(tensor)
