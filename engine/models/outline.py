"""The `Outline`: what a model consists of, known without any of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import torch

from quire.engine.layers.attention import AttentionShape
from quire.engine.layers.build import Build
from quire.engine.layers.experts import Experts
from quire.engine.models.families import Model
from quire.engine.quantization.config import UNQUANTIZED, Quantization, read_quantization
from quire.kernels.reference import TORCH_SUITE


@dataclass(frozen=True, slots=True)
class Outline:
    """Attributes:
    attention: of each layer with a KV cache, in order.
    num_linear: parameters of the matrices of all layers.
    num_active: of these, parameters that a token is multiplied with.
    num_outputs: rows of these matrices.
    num_head: parameters of the output layer.
    num_parameters: of everything, each once, whatever format they are in.
    is_tied: the output layer is the embedding.
    """

    attention: tuple[AttentionShape, ...]
    num_linear: int
    num_active: int
    num_outputs: int
    num_head: int
    num_parameters: int
    is_tied: bool

    @property
    def kv_numbers(self) -> int:
        """Numbers that the KV cache holds of one token, in all layers."""
        return sum(prod(shape.kv_shape(1)) for shape in self.attention)

    def operations(self, num_tokens: float, num_keys: float, num_sampled: float) -> float:
        """Of a step: two for each parameter that meets a token, four for each number of a query and each key before it.

        Args:
            num_keys: that a token attends to, on average.
            num_sampled: rows that need logits.
        """
        attention = sum(4 * shape.num_qo_heads * shape.head_dim for shape in self.attention)
        return 2 * self.num_active * num_tokens + 2 * self.num_head * num_sampled + attention * num_tokens * num_keys


def outline(model: Model, max_model_len: int, stored: Mapping[str, tuple[int, ...]] = MappingProxyType({})) -> Outline:
    """
    Args:
        max_model_len: tokens of prompt and generation together.
        stored: shapes of the tensors that the checkpoint has, by name.

    Raises:
        StartupError: the configuration has something that is not computed.
    """
    quantization = read_quantization(model.config.quantization_config)
    if quantization != UNQUANTIZED:
        # What its format has no tensors for is refused; codes and scales are not counted.
        model.compose(_build(max_model_len, stored, quantization))
    build = _build(max_model_len, stored, UNQUANTIZED)
    composed = model.compose(build)
    dense = sum(product.out * product.size for product in build.products)
    experts = build.experts
    return Outline(
        attention=tuple(layer.shape for layer in build.attention),
        num_linear=dense + sum(_network(each) * each.shape.num_experts for each in experts),
        num_active=dense + sum(_network(each) * each.top_k for each in experts),
        num_outputs=sum(product.out for product in build.products)
        + sum((2 * each.shape.size + each.shape.hidden) * each.shape.num_experts for each in experts),
        num_head=composed.num_head,
        num_parameters=sum(prod(parameter.shape) for parameter in build.parameters.values()),
        is_tied=composed.is_tied,
    )


def _build(max_model_len: int, stored: Mapping[str, tuple[int, ...]], quantization: Quantization) -> Build:
    """Of a model that will not be loaded."""
    return Build(
        kernels=TORCH_SUITE,
        dtype=torch.float32,
        device=torch.device("meta"),
        max_model_len=max_model_len,
        stored=stored,
        quantization=quantization,
    )


def _network(experts: Experts) -> int:
    """Parameters of one network."""
    return 3 * experts.shape.size * experts.shape.hidden
