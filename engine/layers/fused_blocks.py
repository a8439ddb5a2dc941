"""Finds blocks that kernels compute in one call: `PreNormBlock` with rotary attention and a gated layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from quire.engine.layers.feed_forward import GatedFeedForward
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.self_attention import SelfAttention
from quire.kernels.decoder_blocks import Block, BlockShape
from quire.kernels.suite import KernelSuite

FusedModel: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""(embedded tokens, rows) -> normed hidden states of these rows, of all for None."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The parts of a block whose shape is known."""

    attention_norm: RmsNorm
    attention: SelfAttention
    cos_sin: Tensor
    feed_forward_norm: RmsNorm
    feed_forward: GatedFeedForward


def fused(kernels: KernelSuite, blocks: Sequence[object], norm: RmsNorm) -> FusedModel | None:
    """All blocks and the norm behind them in one call, or None: some block is another one, or the kernels do not fuse.

    Args:
        blocks: of a model that is loaded, and whose attention is bound.
    """
    known = [found for block in blocks if (found := _known(block)) is not None]
    if len(known) < len(blocks) or len({_sizes(block) for block in known}) != 1:
        return None
    first = known[0]
    norms = [*(block.attention_norm for block in known[1:]), norm]
    shape = BlockShape(*_sizes(first)[:4], first.cos_sin)
    compute = kernels.fuse_blocks(shape, [_kernel_block(*pair) for pair in zip(known, norms, strict=True)])
    if compute is None:
        return None
    return lambda x, rows: compute(first.attention_norm(x), x, rows)


def _known(block: object) -> _Known | None:
    if not isinstance(block, PreNormBlock):
        return None
    attention, feed_forward = block.attention, block.feed_forward
    if not isinstance(attention, SelfAttention) or not isinstance(feed_forward, GatedFeedForward):
        return None
    head_norms = [norm for norm in (attention.q_norm, attention.k_norm) if norm is not None]
    norms = [block.attention_norm, block.feed_forward_norm, *head_norms]
    shape, rotary = attention.attention.shape, attention.rotary
    if rotary is None or shape.has_sinks or any(norm.offset or norm.eps != norms[0].eps for norm in norms):
        return None
    if any(norm.size != shape.head_dim for norm in head_norms):
        return None
    return _Known(block.attention_norm, attention, rotary.cos_sin, block.feed_forward_norm, feed_forward)


def _sizes(block: _Known) -> tuple[int, int, int, float, int]:
    """What all blocks must have in common; the last tells rotary tables apart."""
    shape = block.attention.attention.shape
    return shape.num_qo_heads, shape.num_kv_heads, shape.head_dim, block.attention_norm.eps, id(block.cos_sin)


def _kernel_block(block: _Known, next_norm: RmsNorm) -> Block:
    layer = block.attention
    return Block(
        qkv=layer.qkv.kernel,
        q_norm=_weight(layer.q_norm),
        k_norm=_weight(layer.k_norm),
        output=layer.output.kernel,
        mlp_norm=block.feed_forward_norm.weight,
        gate_up=block.feed_forward.gate_up.kernel,
        down=block.feed_forward.down.kernel,
        next_norm=next_norm.weight,
        attention=layer.attention.backend,
        layer_kv=layer.attention.layer_kv,
    )


def _weight(norm: RmsNorm | None) -> Tensor | None:
    return None if norm is None else norm.weight
