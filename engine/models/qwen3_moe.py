"""Qwen3 with mixtures of experts: the attention of Qwen3; some layers may stay dense."""

from typing import Any

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.experts import MixtureOfExperts, SeparateExperts
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.linear import Linear
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.router import SoftmaxRouter
from quire.engine.models.family import Family
from quire.engine.models.parts import check_experts, decoder, gated_feed_forward, norm
from quire.engine.models.qwen3 import Qwen3Config, attention
from quire.kernels.experts import ExpertsShape


class Qwen3MoeConfig(Qwen3Config):
    """As `transformers.Qwen3MoeConfig` means it; all layers slide, or none."""

    head_dim: int
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_key_value_heads: int = 4
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_experts: int = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[int] = []

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        values["mlp_only_layers"] = values.get("mlp_only_layers") or []
        values["max_window_layers"] = 0
        # The name that the library writes.
        values["num_experts"] = values.get("num_local_experts") or values["num_experts"]
        super().fill(values)

    def require(self) -> None:
        super().require()
        check_experts(self.num_experts, self.num_experts_per_tok)

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


def compose(config: Qwen3MoeConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: Qwen3MoeConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn"), layer),
        norm(config, scope.at("post_attention_layernorm")),
        feed_forward(config, scope.at("mlp"), layer),
    )


def feed_forward(config: Qwen3MoeConfig, scope: Scope, layer: int) -> FeedForward:
    """Of one block."""
    if not config.is_sparse(layer):
        return gated_feed_forward(config, scope)
    count, top_k = config.num_experts, config.num_experts_per_tok
    shape = ExpertsShape(count, config.hidden_size, config.moe_intermediate_size)
    gate = Linear(scope, {"gate": count}, config.hidden_size, is_exact=True)
    return MixtureOfExperts(
        SoftmaxRouter(gate, top_k, normalises=config.norm_topk_prob),
        SeparateExperts(scope.at("experts"), shape, top_k, config.activation),
    )


QWEN3_MOE = Family("qwen3_moe", ("Qwen3MoeForCausalLM",), Qwen3MoeConfig, compose)
