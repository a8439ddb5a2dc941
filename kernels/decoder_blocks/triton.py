"""In Triton, for one token: norms, gate and residuals are computed where the products are, seven kernels to a block."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from quire.kernels.decoder_blocks.attend import attend
from quire.kernels.decoder_blocks.base import Block, BlockShape, FusedBlocks
from quire.kernels.gated_linear.triton import TritonGatedLinear
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

    max_tokens = 1

    def __init__(self, shape: BlockShape, blocks: Sequence[tuple[Block, _Products]]) -> None:
        self._shape = shape
        self._blocks = blocks

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        eps = self._shape.rms_norm_eps
        # x of the first block is normed already, that of the others is the residual.
        norm: Tensor | None = None
        for block, products in self._blocks:
            qkv = row_product(x, products.qkv.weight, products.qkv.bias, norm=norm, eps=eps)
            attended = attend(self._shape, block, qkv, rms_norm)
            residual = row_product(attended, products.output.weight, products.output.bias, residual=residual)
            gated = row_product(
                residual, products.gate_up.weight, products.gate_up.bias, norm=block.mlp_norm, eps=eps, is_gated=True
            )
            x = residual = row_product(gated, products.down.weight, products.down.bias, residual=residual)
            norm = block.next_norm
        return x if norm is None else rms_norm(x, norm, eps)


def fuse(shape: BlockShape, blocks: Sequence[Block]) -> FusedBlocks | None:
    """A `BlockFuser`: None unless the weights have 16 bits."""
    pairs = [(block, products) for block in blocks if (products := _Products.of(block)) is not None]
    return TritonDecoderBlocks(shape, pairs) if len(pairs) == len(blocks) else None
