"""All decoder blocks of a model in one call, for backends where handing over single operations costs time.

What a call computes is what `quire.engine.layers.pre_norm_block` composes of the single operations; a backend that
does not fuse leaves it at that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from quire.kernels.attention import AttentionBackend
from quire.kernels.linear import Linear


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One decoder block: attention and a gated feed-forward network, each behind a norm and added to the residual.

    Attributes:
        qkv, output, gate_up, down: the linear layers; queries, keys and values are merged, gate_up is gated.
        q_norm, k_norm: norms of single heads, [head_dim], or None.
        mlp_norm, next_norm: the norm inside the block, and that of the next block or of the whole model.
        attention: planned by the caller before every step.
        layer_kv: the block's part of the cache.
    """

    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    next_norm: Tensor
    attention: AttentionBackend
    layer_kv: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class BlockShape:
    """Properties of all blocks of a model. cos_sin is the rotary table, see `quire.kernels.rope`."""

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    cos_sin: Tensor


FusedBlocks: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, residual, rows) -> x of the last block's `next_norm`, [num_rows, hidden_size]. x, normed, and residual are
[num_tokens, hidden_size]; rows are the tokens that are wanted, int64, ascending, or None for all. May overwrite x and
residual; the result holds until the next call."""

BlockFuser: TypeAlias = Callable[[BlockShape, Sequence[Block]], FusedBlocks | None]
"""The fused form of some blocks, or None where a backend cannot fuse these."""
