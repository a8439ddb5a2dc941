"""DeepSeek-V2 and V3: latent attention; behind some dense layers, experts in groups beside shared ones."""

from typing import Any

from quire.engine.layers.attention import Attention, AttentionShape
from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.experts import MixtureOfExperts, SeparateExperts
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.latent_attention import Absorbed, LatentAttention, LowRank
from quire.engine.layers.linear import Linear
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.rotary import Rotary
from quire.engine.layers.router import GroupedRouter
from quire.engine.models.config import DecoderConfig, require
from quire.engine.models.family import Family
from quire.engine.models.parts import check_experts, decoder, gated_feed_forward, norm
from quire.engine.models.rope_frequencies import inverse_frequencies
from quire.engine.models.rope_scaling import magnitude
from quire.kernels.experts import ExpertsShape

_LATENT_EPS = 1e-6


class DeepseekV2Config(DecoderConfig):
    """As `transformers.DeepseekV2Config` means it. `head_dim` is that of the position's part."""

    vocab_size: int = 102400
    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    moe_intermediate_size: int = 1407
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int
    first_k_dense_replace: int = 0
    n_group: int | None = None
    topk_group: int | None = None
    topk_method: str = "greedy"
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    rope_interleave: bool = True
    eos_token_id: int | None = 2

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        values["head_dim"] = values["qk_rope_head_dim"]
        values["num_key_value_heads"] = values["num_attention_heads"]
        super().fill(values)

    def require(self) -> None:
        super().require()
        check_experts(self.n_routed_experts, self.num_experts_per_tok)
        known = ("greedy", "group_limited_greedy", "noaux_tc")
        require(self.topk_method in known, f"topk_method must be one of {', '.join(known)}, got {self.topk_method!r}")
        if (groups := self.groups) is not None:
            holds = groups[0] > 0 and self.n_routed_experts % groups[0] == 0 and 0 < groups[1] <= groups[0]
            require(holds, f"n_group and topk_group must divide {self.n_routed_experts} experts, got {groups}")

    @property
    def groups(self) -> tuple[int, int] | None:
        """Groups of experts, and from how many a token's may be."""
        if self.topk_method == "greedy" or self.n_group is None or self.topk_group is None:
            return None
        return self.n_group, self.topk_group

    @property
    def scale(self) -> float:
        """Of the scores; YaRN has a part in it."""
        rope, dim = self.rope_parameters, self.qk_nope_head_dim + self.qk_rope_head_dim
        all_dim = rope.get("mscale_all_dim") if rope["rope_type"] != "default" else None
        return float(dim**-0.5 * (magnitude(rope["factor"], all_dim) ** 2 if all_dim else 1))


class DeepseekV3Config(DeepseekV2Config):
    """As `transformers.DeepseekV3Config` means it."""

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_attention_heads: int = 128
    max_position_embeddings: int = 4096
    n_routed_experts: int = 256
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    first_k_dense_replace: int = 3
    n_group: int | None = 8
    topk_group: int | None = 4
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    eos_token_id: int | None = 1


def compose(config: DeepseekV2Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: DeepseekV2Config, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn")),
        norm(config, scope.at("post_attention_layernorm")),
        feed_forward(config, scope.at("mlp"), layer),
    )


def attention(config: DeepseekV2Config, scope: Scope) -> LatentAttention:
    """Of one block."""
    build, hidden, rank, bias = scope.build, config.hidden_size, config.kv_lora_rank, config.attention_bias
    heads, key_dim, place_dim = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    frequencies = inverse_frequencies(config, place_dim, build.max_model_len)
    rotary = Rotary(build, place_dim, *frequencies, interleaved=config.rope_interleave)
    place = list(rotary.order or range(place_dim))
    head_rows = [*range(key_dim), *(key_dim + row for row in place)]
    q_rows = [head * len(head_rows) + row for head in range(heads) for row in head_rows]
    latent_rows = [*range(rank), *(rank + row for row in place)]
    shape = AttentionShape(heads, 1, rank + place_dim, scale=config.scale, value_dim=rank)
    if config.q_lora_rank is None:
        queries: FeedForward = Linear(scope, {"q_proj": len(q_rows)}, hidden, orders={"q_proj": q_rows})
    else:
        queries = LowRank(
            Linear(scope, {"q_a_proj": config.q_lora_rank}, hidden, bias=bias),
            RmsNorm(scope.at("q_a_layernorm"), config.q_lora_rank, _LATENT_EPS),
            Linear(scope, {"q_b_proj": len(q_rows)}, config.q_lora_rank, orders={"q_b_proj": q_rows}),
        )
    name = "kv_a_proj_with_mqa"
    return LatentAttention(
        queries,
        Linear(scope, {name: rank + place_dim}, hidden, bias=bias, orders={name: latent_rows}),
        RmsNorm(scope.at("kv_a_layernorm"), rank, _LATENT_EPS),
        Absorbed(scope.at("kv_b_proj"), heads, key_dim, config.v_head_dim, rank),
        Attention(build, shape),
        Linear(scope, {"o_proj": hidden}, heads * config.v_head_dim, bias=bias),
        rotary,
    )


def feed_forward(config: DeepseekV2Config, scope: Scope, layer: int) -> FeedForward:
    """Of one block."""
    if layer < config.first_k_dense_replace:
        return gated_feed_forward(config, scope)
    count, top_k, size = config.n_routed_experts, config.num_experts_per_tok, config.moe_intermediate_size
    gate = Linear(scope, {"gate": count}, config.hidden_size, is_exact=True)
    router = GroupedRouter(gate, top_k, config.groups, config.routed_scaling_factor, config.norm_topk_prob)
    if config.topk_method == "noaux_tc":
        scope.at("gate").require({"e_score_correction_bias": (count,)}, router.take_correction)
    return MixtureOfExperts(
        router,
        SeparateExperts(scope.at("experts"), ExpertsShape(count, config.hidden_size, size), top_k, config.activation),
        gated_feed_forward(config, scope.at("shared_experts"), size=size * config.n_shared_experts),
    )


DEEPSEEK_V2 = Family("deepseek_v2", ("DeepseekV2ForCausalLM",), DeepseekV2Config, compose)
DEEPSEEK_V3 = Family("deepseek_v3", ("DeepseekV3ForCausalLM",), DeepseekV3Config, compose)
