"""A `Matrix` of the checkpoint: the tensors that make it up in its format."""

from collections.abc import Callable

from torch import Tensor

from quire.engine.layers.build import Scope
from quire.kernels.coded_weight import Weight


class Matrix:
    """Makes known the tensors of one matrix, and gives it away when they are there."""

    def __init__(self, scope: Scope, out: int, size: int, done: Callable[[Weight], None]) -> None:
        """
        Args:
            scope: whose name is the matrix's, without the last part.
            done: takes the matrix, [out, size].
        """
        self._build, self._done = scope.build, done
        self._method = scope.build.quantization.method(scope.name)
        self._tensors: dict[str, Tensor] = {}
        self._wanted = self._method.tensors(out, size)
        for name, stored in self._wanted.items():
            scope.require({name: stored.shape}, self._load, stored.dtypes)

    def _load(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor
        if len(self._tensors) == len(self._wanted):
            weight = self._method.weight(self._tensors, self._build.dtype)
            self._tensors = {}
            self._done(weight)
