"""The `ModelEngine`: weights, KV cache and attention, and one forward pass over them."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.arrays import Int32Array
from quire.engine.config import ExecutorConfig
from quire.engine.model.batch import Batch, context_rows
from quire.engine.model.checkpoint import Checkpoint
from quire.engine.model.cuda_graphs import GraphAttention
from quire.engine.model.features.processors import processors_bytes
from quire.engine.model.kv_pool import block_bytes, fixed_size, size_from_memory
from quire.engine.model.layers import prepare
from quire.engine.model.loader import load_weights
from quire.engine.model.model_config import ModelConfig
from quire.engine.model.placement import Placement
from quire.engine.model.rotary import cos_sin_table
from quire.engine.model.step_graphs import StepGraphs
from quire.engine.model.transformer import Transformer
from quire.kernels.attention import AttentionBackend
from quire.kernels.decoder_blocks import BlockShape
from quire.kernels.registry import attention_backend

# Tokens of the step that is tried out for its memory.
_LARGEST_STEP: Final = 8192


class ModelEngine:
    """One model on one device.

    Attributes:
        device: where it computes.
        num_blocks: size of the KV pool.
        max_model_len: tokens of prompt and generation together.
    """

    def __init__(
        self, config: ExecutorConfig, checkpoint: Checkpoint, placement: Placement, num_user_processors: int = 0
    ) -> None:
        """
        Args:
            num_user_processors: logits processors of users, for whose state memory is left.

        Raises:
            StartupError: the settings do not suit the device or the model, or its weights are not as they should be.
        """
        self._model, self._config, self._kernels = checkpoint.config, config, placement.kernels
        self.device, self._kv_dtype = placement.device, placement.kv_dtype
        model = self._model
        self.max_model_len = model.max_model_len
        self._attention = _attention(config, model, placement)
        cos_sin = cos_sin_table(model.inv_freq, model.rope_scale, self.max_model_len, self.device)
        self._shape = BlockShape(model.num_qo_heads, model.num_kv_heads, model.head_dim, model.rms_norm_eps, cos_sin)
        self._weights = load_weights(checkpoint, placement.dtype, self.device)
        per_block = block_bytes(config, model, self._kv_dtype.itemsize)
        size = fixed_size(config, per_block, self.device.type == "cuda")
        self.num_blocks = self._measure(per_block, num_user_processors) if size is None else size
        # One block more than is reported: padded rows write there.
        self._kv = self._allocate_kv(self.num_blocks + 1)
        self._transformer = self._prepare(self._kv)
        self._graphs = self._capture()

    def copy_blocks(self, copies: Int32Array) -> None:
        """Copy block copies[i, 0] over block copies[i, 1] in every layer, for all i at once."""
        if len(copies):
            pairs = torch.from_numpy(copies.astype(np.int64))
            if self.device.type == "cuda":
                # From other memory, the host would wait for the steps before.
                pairs = pairs.pin_memory().to(self.device, non_blocking=True)
            self._kernels.kv_copy(self._kv, pairs[:, 0], pairs[:, 1])

    def forward(self, batch: Batch) -> Tensor:
        """Compute a batch, which has at least one token; float32 logits of its last tokens, [num_sampling, vocab_size].

        They hold until the next call.
        """
        return self.logits(self.hidden(batch, batch.last_tokens))[: len(batch.last_tokens)]

    def hidden(self, batch: Batch, rows: Tensor) -> Tensor:
        """Compute a batch: normed hidden states of some of its new tokens, [at least num_rows, hidden_size].

        They hold until the next call.

        Args:
            rows: int64 [num_rows], ascending: which of the new tokens.
        """
        if self._graphs is not None:
            return self._graphs.hidden(batch, rows)
        for attention in self._attention.values():
            attention.plan(batch.paged)
        return self._transformer.hidden(batch.input_ids, rows)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [num_rows, vocab_size], float32, of hidden states."""
        return self._transformer.logits(hidden)

    def _prepare(self, kv: Tensor) -> Transformer:
        per_layer = [self._attention[window] for window in self._model.windows]
        layers = prepare(self._weights, self._shape, per_layer, kv, self._kernels)
        return Transformer(self._shape, layers, self._kernels)

    @property
    def kv_bytes(self) -> int:
        """Memory that the KV pool takes."""
        return self._kv.nbytes

    def _allocate_kv(self, num_blocks: int) -> Tensor:
        """[num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]."""
        model = self._model
        shape = (model.num_layers, num_blocks, 2, self._config.block_size, model.num_kv_heads, model.head_dim)
        try:
            # Zeros: what no one has written yet must not be NaN, which no mask hides.
            return self._kernels.zeros(shape, self._kv_dtype, self.device)
        except (RuntimeError, OSError) as error:
            raise StartupError(f"no memory for {num_blocks} KV blocks on {self.device}: {error}") from error

    @torch.inference_mode()
    def _measure(self, per_block: int, num_user_processors: int) -> int:
        """Blocks that the memory holds beside the weights, what slots remember and the largest step, which is
        tried out."""
        num_tokens = _LARGEST_STEP
        paged = context_rows(num_tokens, self.max_model_len, self._config.block_size, self.device)
        num_blocks = len(paged.kv_indices)
        try:
            transformer = self._prepare(self._allocate_kv(num_blocks))
            for attention in self._attention.values():
                attention.plan(paged)
            torch.cuda.reset_peak_memory_stats(self.device)
            ids = torch.zeros(num_tokens, dtype=torch.int64, device=self.device)
            logits = transformer.forward(ids, ids[: self._config.max_batch_size])
            # Of rows that are penalised and want log-probabilities, those of before are kept.
            logits.clone()
            torch.cuda.synchronize(self.device)
        except torch.cuda.OutOfMemoryError as error:
            raise StartupError(
                f"weights and a step of {num_tokens} tokens do not fit on {self.device}: {error}"
            ) from error
        peak = torch.cuda.max_memory_allocated(self.device) - num_blocks * per_block
        peak += processors_bytes(
            self._config.max_batch_size, self.max_model_len, self._model.vocab_size, num_user_processors
        )
        del transformer, logits
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        others = total - free - torch.cuda.memory_reserved(self.device)
        return size_from_memory(self._config, per_block, peak, total, others)

    @torch.inference_mode()
    def _capture(self) -> StepGraphs | None:
        attention = [self._attention[window] for window in self._model.windows]
        captured = [each for each in attention if isinstance(each, GraphAttention)]
        if not self._config.cuda_graphs or len(captured) < len(attention):
            return None
        return StepGraphs(
            self._transformer,
            captured,
            max_rows=self._config.max_batch_size,
            max_blocks=-(-self.max_model_len // self._config.block_size),
            block_size=self._config.block_size,
            spare_block=self.num_blocks,
        )


def _attention(config: ExecutorConfig, model: ModelConfig, placement: Placement) -> dict[int | None, AttentionBackend]:
    """By sliding window."""
    specs = {window: placement.attention_spec(model, config.block_size, window) for window in set(model.windows)}
    try:
        return {window: attention_backend(config.attention, spec, placement.kernels) for window, spec in specs.items()}
    except ValueError as error:
        raise StartupError(str(error)) from error
