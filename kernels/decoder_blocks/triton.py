"""On an NVIDIA GPU: residuals are added by the products, and for one token norms and gates are theirs, too.

A block is seven kernels for one token and ten otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from quire.kernels.decoder_blocks.attend import attend, wanted
from quire.kernels.decoder_blocks.base import Block, BlockShape, FusedBlocks
from quire.kernels.gated_linear.triton import TritonGatedLinear, silu_mul
from quire.kernels.linear.cuda import CudaLinear
from quire.kernels.linear.triton import row_product
from quire.kernels.rms_norm.triton import rms_norm


@dataclass(frozen=True, slots=True, eq=False)
class _Products:
    """The linear layers of a block."""

    qkv: CudaLinear
    output: CudaLinear
    gate_up: CudaLinear
    down: CudaLinear

    @classmethod
    def of(cls, block: Block) -> "_Products | None":
        """None if they are of other kinds or types."""
        gate_up = block.gate_up.gate_up if isinstance(block.gate_up, TritonGatedLinear) else None
        products = (block.qkv, block.output, gate_up, block.down)
        narrow = [product for product in products if isinstance(product, CudaLinear) and product.is_narrow]
        return cls(*narrow) if len(narrow) == len(products) else None


class TritonDecoderBlocks:
    """Implements `FusedBlocks`."""

    def __init__(self, shape: BlockShape, blocks: Sequence[tuple[Block, _Products]]) -> None:
        self._shape = shape
        self._blocks = blocks

    def __call__(self, x: Tensor, residual: Tensor, rows: Tensor | None) -> Tensor:
        # x of the first block is normed already, that of the others is the residual.
        norm: Tensor | None = None
        for block, products in self._blocks:
            qkv = self._normed(products.qkv, x, norm, is_gated=False)
            attended = attend(self._shape, block, qkv, rms_norm)
            if block is self._blocks[-1][0]:
                attended, residual = wanted(rows, attended, residual)
            residual = products.output.plus(attended, residual)
            gated = self._normed(products.gate_up, residual, block.mlp_norm, is_gated=True)
            x = residual = products.down.plus(gated, residual)
            norm = block.next_norm
        return x if norm is None else rms_norm(x, norm, self._shape.rms_norm_eps)

    def _normed(self, product: CudaLinear, x: Tensor, norm: Tensor | None, is_gated: bool) -> Tensor:
        """The product of the norm of x, if there is one, gated or not."""
        eps = self._shape.rms_norm_eps
        if len(x) == 1:
            return row_product(x, product.weight, product.bias, norm=norm, eps=eps, is_gated=is_gated)
        y = product(x if norm is None else rms_norm(x, norm, eps))
        return silu_mul(y) if is_gated else y


def fuse(shape: BlockShape, blocks: Sequence[Block]) -> FusedBlocks | None:
    """A `BlockFuser`: None unless the weights have 16 bits."""
    pairs = [(block, products) for block in blocks if (products := _Products.of(block)) is not None]
    return TritonDecoderBlocks(shape, pairs) if len(pairs) == len(blocks) else None
