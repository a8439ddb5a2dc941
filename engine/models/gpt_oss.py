"""gpt-oss: attention sinks, every other layer slides, mixtures of experts with clamped gates.

Experts are merged in the checkpoint, with the rows of gate and up in turns; in MXFP4, or plain and transposed.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.experts import Experts, MixtureOfExperts
from quire.engine.layers.linear import Linear
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.router import TopSoftmaxRouter
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig, check_layer_types, require
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, check_experts, decoder, norm, rotary, self_attention
from quire.kernels.activation import clamped_swiglu
from quire.kernels.experts import ExpertsShape, ExpertWeights
from quire.kernels.mxfp4 import BLOCK, widened

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


class GptOssConfig(DecoderConfig):
    """As `transformers.GptOssConfig` means it."""

    rope_theta: ClassVar[float] = 150_000.0

    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 64
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    sliding_window: int | None = 128
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        if not (values.get("rope_scaling") or values.get("rope_parameters")):
            values["rope_parameters"] = _YARN
        super().fill(values)
        if not values["layer_types"]:
            kinds = ("sliding_attention", "full_attention")
            values["layer_types"] = [kinds[layer % 2] for layer in range(values["num_hidden_layers"])]
        check_layer_types(values)
        # Its experts alone are quantized so, and are widened.
        quantization = values.get("quantization_config")
        if isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4":
            values["quantization_config"] = None

    def require(self) -> None:
        super().require()
        check_experts(self.num_local_experts, self.num_experts_per_tok)
        for name, size in (("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)):
            require(size % BLOCK == 0, f"{name} must be a multiple of {BLOCK}, got {size}")


class GptOssExperts(Experts):
    """Of a checkpoint that has a tensor for all networks of a layer."""

    def __init__(self, scope: Scope, shape: ExpertsShape, config: GptOssConfig) -> None:
        activation = clamped_swiglu(config.swiglu_alpha, config.swiglu_limit)
        super().__init__(scope, shape, config.num_experts_per_tok, activation)
        count, hidden, size = shape.num_experts, shape.hidden, shape.size
        self._tensors: dict[str, Tensor] = {}
        biases = {"gate_up_proj_bias": (count, 2 * size), "down_proj_bias": (count, hidden)}
        scope.require(biases, self._load)
        self._is_coded = f"{scope.name}.gate_up_proj_blocks" in scope.build.stored
        if self._is_coded:
            rows = {"gate_up_proj": (2 * size, hidden), "down_proj": (hidden, size)}
            blocks = {f"{name}_blocks": (count, out, inner // BLOCK, 16) for name, (out, inner) in rows.items()}
            scales = {f"{name}_scales": (count, out, inner // BLOCK) for name, (out, inner) in rows.items()}
            scope.require(blocks, self._load, ("U8",))
            scope.require(scales, self._load, ("U8",))
        else:
            matrices = {"gate_up_proj": (count, hidden, 2 * size), "down_proj": (count, size, hidden)}
            scope.require(matrices, self._load)
        self._num_tensors = 6 if self._is_coded else 4

    def _load(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor
        if len(self._tensors) < self._num_tensors:
            return
        for expert in range(self.shape.num_experts):
            gate_up, bias = self._network_matrix("gate_up_proj", expert), self._tensors["gate_up_proj_bias"][expert]
            down, down_bias = self._network_matrix("down_proj", expert), self._tensors["down_proj_bias"][expert]
            self.take(expert, ExpertWeights(_apart(gate_up), down, _apart(bias), down_bias))
        self._tensors.clear()

    def _network_matrix(self, name: str, expert: int) -> Tensor:
        """[out, in]."""
        if self._is_coded:
            blocks, scales = (self._tensors[f"{name}_{part}"][expert] for part in ("blocks", "scales"))
            return widened(blocks, scales, self._build.dtype)
        return self._tensors[name][expert].T


def compose(config: GptOssConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: GptOssConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn"), layer),
        norm(config, scope.at("post_attention_layernorm")),
        mixture(config, scope.at("mlp")),
    )


def attention(config: GptOssConfig, scope: Scope, layer: int) -> SelfAttention:
    """Of one block."""
    shape = attention_shape(config, scope.build, config.window(layer), has_sinks=True)
    bias, angles = config.attention_bias, rotary(config, scope.build)
    made = self_attention(config, scope, shape, angles, qkv_bias=bias, output_bias=bias)
    scope.require({"sinks": (shape.num_qo_heads,)}, made.attention.take_sinks)
    return made


def mixture(config: GptOssConfig, scope: Scope) -> MixtureOfExperts:
    """Of one block."""
    count = config.num_local_experts
    shape = ExpertsShape(count, config.hidden_size, config.intermediate_size)
    gate = Linear(scope, {"router": count}, config.hidden_size, bias=True, is_exact=True)
    return MixtureOfExperts(
        TopSoftmaxRouter(gate, config.num_experts_per_tok), GptOssExperts(scope.at("experts"), shape, config)
    )


def _apart(rows: Tensor) -> Tensor:
    """Rows of the gate, then of up, of rows that are in turns."""
    return torch.cat((rows[::2], rows[1::2]))


GPT_OSS = Family("gpt_oss", ("GptOssForCausalLM",), GptOssConfig, compose)
