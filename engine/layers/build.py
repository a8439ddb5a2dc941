"""The `Build`: what the layers of one model are made with, and what they make known while the model is composed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.quantization.config import UNQUANTIZED, Quantization
from quire.engine.quantization.linear_method import FLOATS
from quire.kernels.adapters import AdapterRows
from quire.kernels.coded_weight import Coding
from quire.kernels.suite import KernelSuite

if TYPE_CHECKING:
    from quire.engine.layers.attention import Attention
    from quire.engine.layers.experts import Experts
    from quire.engine.layers.linear import Linear


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """A tensor that a model needs of its checkpoint.

    Attributes:
        dtypes: that it may have there, as safetensors calls them.
        load: takes it, on the device.
    """

    shape: tuple[int, ...]
    load: Callable[[Tensor], None]
    dtypes: tuple[str, ...] = FLOATS


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix that tokens are multiplied with: `size` numbers to `out`."""

    out: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """Composing a model allocates no weight: parameters come one by one, and a layer is made when it has its own.

    Attributes:
        kernels: what computes.
        dtype: of weights and activations.
        max_model_len: tokens of prompt and generation together.
        stored: shapes of the tensors that the checkpoint has, by name.
        quantization: the format of the checkpoint's matrices.
        adapters: which tokens of a step have which adapter; None: the model takes none.
        coding: what brings matrices into codes that are plain in the checkpoint; None: they stay.
        parameters: by name in the checkpoint; the layers add theirs.
        attention: of every layer that has a KV cache, in the order of the model.
        products: of the model, but those of the output layer and of experts.
        linears: the layers among these.
        experts: mixtures of experts.
        when_loaded: called in this order when every parameter is there.
        tables: rotary tables that layers share, by what they are made of.
    """

    kernels: KernelSuite
    dtype: torch.dtype
    device: torch.device
    max_model_len: int
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    quantization: Quantization = UNQUANTIZED
    coding: Coding | None = None
    adapters: AdapterRows | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    attention: "list[Attention]" = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    linears: "list[Linear]" = field(default_factory=list)
    experts: "list[Experts]" = field(default_factory=list)
    when_loaded: list[Callable[[], None]] = field(default_factory=list)
    tables: dict[object, Tensor] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of what only loading needs: layers that hold their `Build`, and it them, would outlive their model."""
        self.parameters.clear()
        self.when_loaded.clear()
        self.linears.clear()
        self.experts.clear()

    def empty(self, *shape: int) -> Tensor:
        """Room for a parameter."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    @property
    def root(self) -> "Scope":
        """The scope without a name."""
        return Scope(self, "")


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A part of a model, and what its parameters' names begin with in the checkpoint."""

    build: Build
    name: str

    def at(self, *names: str | int) -> "Scope":
        """A part of this part."""
        parts = [self.name, *map(str, names)] if self.name else list(map(str, names))
        return Scope(self.build, ".".join(parts))

    def require(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        load: Callable[[str, Tensor], None],
        dtypes: tuple[str, ...] = FLOATS,
    ) -> None:
        """Make parameters known.

        Args:
            shapes: of each, by its name within this scope.
            load: takes one of these names and its tensor.
            dtypes: that they may have.
        """
        for name, shape in shapes.items():
            whole = f"{self.name}.{name}" if self.name else name
            if whole in self.build.parameters:
                raise StartupError(f"model: two layers ask for {whole}")
            self.build.parameters[whole] = Parameter(shape, partial(load, name), dtypes)
