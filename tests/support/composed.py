"""A model's layers with the weights of a folder, as an executor composes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quire.engine.layers.build import Build
from quire.engine.layers.decoder import DecoderModel
from quire.engine.quantization.config import read_quantization
from quire.engine.weights.checkpoint import read_checkpoint
from quire.engine.weights.loader import load_weights
from quire.kernels.coded_weight import CODINGS
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True)
class Composed:
    model: DecoderModel
    build: Build

    @property
    def embedding(self) -> Tensor:
        return self.model.embedding.weight

    @property
    def head(self) -> Tensor:
        return weight(self.model.head)

    @property
    def norm(self) -> Tensor:
        return self.model.norm.weight

    def block(self, layer: int) -> Any:
        """One of the known shape."""
        return self.model.blocks[layer]


def weight(layer: Any) -> Tensor:
    """The whole matrix of a layer of PyTorch's kernels."""
    found: Tensor = layer.kernel.weight
    return found


def compose(
    folder: Path, dtype: torch.dtype = torch.float32, kernels: KernelSuite = TORCH_SUITE, coding: str = "none"
) -> Composed:
    checkpoint = read_checkpoint(folder)
    shapes = {name: each.shape for name, each in checkpoint.tensors.items()}
    quantization = read_quantization(checkpoint.config.quantization_config)
    build = Build(
        kernels, dtype, torch.device("cpu"), checkpoint.max_model_len, shapes, quantization, CODINGS.get(coding)
    )
    model = checkpoint.model.compose(build)
    assert isinstance(model, DecoderModel)
    load_weights(checkpoint, build)
    return Composed(model, build)
