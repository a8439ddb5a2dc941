"""The `ModelEngine`: weights, KV cache and attention, and one forward pass over them."""

import numpy as np
import torch
from torch import Tensor

from quire.engine.config import ExecutorConfig
from quire.engine.errors import StartupError
from quire.engine.model.batch import Batch
from quire.engine.model.checkpoint import Checkpoint
from quire.engine.model.kv_pool import pool_size
from quire.engine.model.layers import prepare
from quire.engine.model.loader import load_weights
from quire.engine.model.model_config import ModelConfig
from quire.engine.model.placement import device_of, dtype_of
from quire.engine.model.rotary import cos_sin_table
from quire.engine.model.transformer import Transformer
from quire.engine.request import Int32Array
from quire.kernels.attention.base import AttentionBackend, AttentionSpec
from quire.kernels.attention.registry import attention_backend
from quire.kernels.decoder_blocks.base import BlockShape
from quire.kernels.suite import KernelSuite


class ModelEngine:
    """One model on one device.

    Attributes:
        device: where it computes.
        num_blocks: size of the KV pool.
        max_model_len: the smaller of the setting and the model's own limit.
    """

    def __init__(self, config: ExecutorConfig, checkpoint: Checkpoint, kernels: KernelSuite) -> None:
        """
        Raises:
            StartupError: the device is not there, or the settings do not suit it or the model.
        """
        model = checkpoint.config
        self.device = device_of(config)
        dtype = dtype_of(config, self.device)
        self.num_blocks = pool_size(config, model, dtype)
        self.max_model_len = min(config.max_model_len or model.max_model_len, model.max_model_len)
        self._attention = _attention(config, model, dtype, self.device, kernels)
        self._kernels = kernels
        self._kv = self._allocate_kv(model, config.block_size, dtype)
        cos_sin = cos_sin_table(model.inv_freq, model.rope_scale, self.max_model_len, self.device)
        shape = BlockShape(model.num_qo_heads, model.num_kv_heads, model.head_dim, model.rms_norm_eps, cos_sin)
        weights = load_weights(checkpoint, dtype, self.device)
        per_layer = [self._attention[window] for window in model.windows]
        layers = prepare(weights, shape, per_layer, self._kv, kernels)
        self._transformer = Transformer(shape, layers, kernels)

    def copy_blocks(self, copies: Int32Array) -> None:
        """Copy block copies[i, 0] over block copies[i, 1] in every layer, for all i at once."""
        if len(copies):
            pairs = torch.from_numpy(copies.astype(np.int64)).to(self.device)
            self._kernels.kv_copy(self._kv, pairs[:, 0], pairs[:, 1])

    def forward(self, batch: Batch) -> Tensor:
        """Compute a batch, which has at least one token; logits [num_sampling, vocab_size], float32."""
        for attention in self._attention.values():
            attention.plan(batch.paged)
        hidden = self._transformer.hidden(batch.input_ids)
        return self._transformer.logits(hidden, batch.last_tokens)

    def _allocate_kv(self, model: ModelConfig, block_size: int, dtype: torch.dtype) -> Tensor:
        """[num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]."""
        shape = (model.num_layers, self.num_blocks, 2, block_size, model.num_kv_heads, model.head_dim)
        try:
            # Zeros: what no one has written yet must not be NaN, which no mask hides.
            return torch.zeros(shape, dtype=dtype, device=self.device)
        except RuntimeError as error:
            raise StartupError(f"no memory for {self.num_blocks} KV blocks on {self.device}: {error}") from error


def _attention(
    config: ExecutorConfig, model: ModelConfig, dtype: torch.dtype, device: torch.device, kernels: KernelSuite
) -> dict[int | None, AttentionBackend]:
    try:
        return {
            window: attention_backend(
                config.attention,
                AttentionSpec(
                    num_qo_heads=model.num_qo_heads,
                    num_kv_heads=model.num_kv_heads,
                    head_dim=model.head_dim,
                    block_size=config.block_size,
                    dtype=dtype,
                    device=device,
                    sliding_window=window,
                ),
                kernels.attention,
            )
            for window in set(model.windows)
        }
    except ValueError as error:
        raise StartupError(str(error)) from error
