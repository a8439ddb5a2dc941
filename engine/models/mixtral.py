"""Mixtral: a Mistral whose feed-forward layers are mixtures of experts."""

from typing import ClassVar

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.experts import MixtureOfExperts, SeparateExperts
from quire.engine.layers.linear import Linear
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.router import SoftmaxRouter
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, check_experts, decoder, norm, rotary, self_attention
from quire.kernels.experts import ExpertsShape


class MixtralConfig(DecoderConfig):
    """As `transformers.MixtralConfig` means it."""

    rope_theta: ClassVar[float] = 1_000_000.0

    intermediate_size: int = 14336
    max_position_embeddings: int = 131072
    num_key_value_heads: int = 8
    rms_norm_eps: float = 1e-5
    num_experts_per_tok: int = 2
    num_local_experts: int = 8
    eos_token_id: int | None = 2

    def require(self) -> None:
        super().require()
        check_experts(self.num_local_experts, self.num_experts_per_tok)


def compose(config: MixtralConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: MixtralConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    shape = attention_shape(config, scope.build, window=config.sliding_window)
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        self_attention(config, scope.at("self_attn"), shape, rotary(config, scope.build)),
        norm(config, scope.at("post_attention_layernorm")),
        mixture(config, scope.at("block_sparse_moe")),
    )


def mixture(config: MixtralConfig, scope: Scope) -> MixtureOfExperts:
    """Of one block."""
    count, top_k = config.num_local_experts, config.num_experts_per_tok
    shape = ExpertsShape(count, config.hidden_size, config.intermediate_size)
    return MixtureOfExperts(
        SoftmaxRouter(Linear(scope, {"gate": count}, config.hidden_size, is_exact=True), top_k),
        SeparateExperts(scope.at("experts"), shape, top_k, config.activation, ("w1", "w3", "w2")),
    )


MIXTRAL = Family("mixtral", ("MixtralForCausalLM",), MixtralConfig, compose)
