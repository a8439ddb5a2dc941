"""The `CacheScales` of a layer: what keys and values in fp8 are divided by, as the checkpoint's author measured it."""

import math
from typing import Final

from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.layers.build import Scope

# Of keys and of values, as compressed-tensors and as ModelOpt name them.
_NAMES: Final = (("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"))


class CacheScales:
    """Attributes:
    keys, values: 1 where the checkpoint has none.
    """

    def __init__(self, scope: Scope) -> None:
        """
        Args:
            scope: of the layer's attention.
        """
        self.keys = self.values = 1.0
        stored, self._scope = scope.build.stored, scope.name
        for names in _NAMES:
            shapes = {name: stored[f"{scope.name}.{name}"] for name in names if f"{scope.name}.{name}" in stored}
            if shapes:
                wrong = [name for name, shape in shapes.items() if math.prod(shape) != 1]
                if wrong:
                    raise StartupError(f"{scope.name}.{wrong[0]} must be one number, got {shapes[wrong[0]]}")
                scope.require(shapes, self._load)
                return

    def _load(self, name: str, tensor: Tensor) -> None:
        scale = float(tensor)
        if not 0 < scale < math.inf:
            raise StartupError(f"{self._scope}.{name} must be above 0, got {scale}")
        if name.endswith("k_scale"):
            self.keys = scale
        else:
            self.values = scale
