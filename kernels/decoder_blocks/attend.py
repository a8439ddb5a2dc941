"""What a decoder block does between its projections."""

from collections.abc import Callable

import torch
from torch import Tensor

from quire.kernels.decoder_blocks.base import Block, BlockShape


def attend(shape: BlockShape, block: Block, qkv: Tensor, rms_norm: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Normed heads, rotation, append and attention.

    Args:
        qkv: of the merged projection, [num_tokens, (num_qo_heads + 2 * num_kv_heads) * head_dim].
        rms_norm: of a `KernelSuite`.

    Returns:
        [num_tokens, num_qo_heads * head_dim].
    """
    num_heads = [shape.num_qo_heads, shape.num_kv_heads, shape.num_kv_heads]
    q, k, v = torch.split(qkv.view(-1, sum(num_heads), shape.head_dim), num_heads, dim=1)
    if block.q_norm is not None and block.k_norm is not None:
        q = rms_norm(q, block.q_norm, shape.rms_norm_eps)
        k = rms_norm(k, block.k_norm, shape.rms_norm_eps)
    block.attention.append(block.layer_kv, q, k, v, shape.cos_sin)
    return block.attention.run(block.layer_kv, q).flatten(1)


def wanted(rows: Tensor | None, attended: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """What the last block goes on with: behind its attention, no token needs another one.

    Args:
        rows: int64, ascending; None: all.
    """
    if rows is None or len(rows) == len(attended):
        return attended, residual
    return attended[rows], residual[rows]
