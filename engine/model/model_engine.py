"""The `ModelEngine`: weights, KV cache and attention, and one forward pass over them."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from quire.engine.adapters.places import AdapterPlaces
from quire.engine.api.errors import StartupError
from quire.engine.arrays import Int32Array
from quire.engine.config import ExecutorConfig
from quire.engine.layers.attention import AttentionShape
from quire.engine.layers.build import Build
from quire.engine.layers.decoder import DecoderModel
from quire.engine.model.batch import Batch, context_rows
from quire.engine.model.cache_groups import CacheLayout, cache_layout
from quire.engine.model.cuda_graphs import GraphAttention
from quire.engine.model.features.processors import processors_bytes
from quire.engine.model.kv_pool import fixed_size, size_from_memory
from quire.engine.model.placement import Placement
from quire.engine.model.step_graphs import StepGraphs
from quire.engine.models.outline import Outline
from quire.engine.quantization.config import read_quantization
from quire.engine.weights.checkpoint import Checkpoint
from quire.engine.weights.loader import load_weights
from quire.kernels.adapters import AdapterRows
from quire.kernels.attention import AttentionBackend
from quire.kernels.coded_weight import CODINGS
from quire.kernels.registry import attention_backend

# Tokens of the step that is tried out for its memory.
_LARGEST_STEP: Final = 8192
_ADAPTERS_ON_CPU: Final = 8


class ModelEngine:
    """One model on one device.

    Attributes:
        device: where it computes.
        num_blocks: size of the KV pool.
        layout: how layers share it.
        max_model_len: tokens of prompt and generation together.
        adapters: where those of the model lie.
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
        self._config, self._kernels = config, placement.kernels
        self.device, self._kv_dtype = placement.device, placement.kv_dtype
        self.max_model_len, self._vocab_size = checkpoint.max_model_len, checkpoint.config.vocab_size
        self.layout = cache_layout(checkpoint.outline.attention, config.block_size, self.max_model_len)
        self._attention = _attention(config, checkpoint.outline, self.layout, placement)
        self._build = Build(
            kernels=placement.kernels,
            dtype=placement.dtype,
            device=self.device,
            max_model_len=self.max_model_len,
            stored={name: tensor.shape for name, tensor in checkpoint.tensors.items()},
            quantization=read_quantization(checkpoint.config.quantization_config),
            coding=CODINGS.get(config.quantization),
            adapters=_adapter_rows(config, self.device),
        )
        self._model = checkpoint.model.compose(self._build)
        self._linears = tuple(self._build.linears)
        self.adapters = AdapterPlaces(self._linears, self._build.adapters, config.max_adapter_rank)
        load_weights(checkpoint, self._build)
        per_block = self.layout.kv_numbers * self._kv_dtype.itemsize
        size = fixed_size(config, per_block, self.device.type == "cuda")
        self.num_blocks = self._measure(per_block, num_user_processors) if size is None else size
        # One block more than is reported: padded rows write there.
        self._bind(self.num_blocks + 1)
        self._graphs = self._capture()

    def copy_blocks(self, copies: Int32Array) -> None:
        """Copy block copies[i, 0] over block copies[i, 1] in every layer, for all i at once."""
        if len(copies):
            pairs = torch.from_numpy(copies.astype(np.int64))
            if self.device.type == "cuda":
                # From other memory, the host would wait for the steps before.
                pairs = pairs.pin_memory().to(self.device, non_blocking=True)
            for kv in self._kv:
                self._kernels.kv_copy(kv, pairs[:, 0], pairs[:, 1])

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
        if self._build.adapters is not None:
            self._build.adapters.plan(batch.adapters, rows)
        if self._graphs is not None:
            return self._graphs.hidden(batch, rows)
        for (_, group), attention in self._attention.items():
            attention.plan(batch.paged[group])
        return self._model.hidden(batch.input_ids, batch.positions, rows)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [num_rows, vocab_size], float32, of hidden states."""
        return self._model.logits(hidden)

    @property
    def kv_bytes(self) -> int:
        """Memory that the KV pool takes."""
        return sum(kv.nbytes for kv in self._kv)

    def _bind(self, num_blocks: int) -> None:
        """Make caches of so many blocks, and give every layer its own; layers of one shape lie in one tensor.

        What lies there of layers of different cache groups is in different blocks.
        """
        layers = self.layout.layers
        caches = {shape: self._allocate_kv((count, num_blocks, *shape)) for shape, count in layers.items()}
        self._kv = list(caches.values())
        for attention, place in zip(self._build.attention, self.layout.places, strict=True):
            backend = self._attention[attention.shape, place.group]
            attention.bind(backend, caches[place.kv_shape][place.index])
        self._model.fuse()

    def _allocate_kv(self, shape: tuple[int, ...]) -> Tensor:
        """[num_layers, num_blocks, 2, block_size, num_kv_heads, head_dim]."""
        try:
            # Zeros: what no one has written yet must not be NaN, which no mask hides.
            return self._kernels.zeros(shape, self._kv_dtype, self.device)
        except (RuntimeError, OSError) as error:
            raise StartupError(f"no memory for {shape[1]} KV blocks on {self.device}: {error}") from error

    @torch.inference_mode()
    def _measure(self, per_block: int, num_user_processors: int) -> int:
        """Blocks that the memory holds beside the weights, what slots remember and the largest step, which is
        tried out."""
        num_tokens = _LARGEST_STEP
        paged = context_rows(num_tokens, self.max_model_len, self._config.block_size, self.device)
        num_blocks = len(paged.kv_indices)
        try:
            self._bind(num_blocks)
            for attention in self._attention.values():
                attention.plan(paged)
            torch.cuda.reset_peak_memory_stats(self.device)
            ids = torch.zeros(num_tokens, dtype=torch.int64, device=self.device)
            hidden = self._model.hidden(ids, paged.positions, ids[: self._config.max_batch_size])
            logits = self._model.logits(hidden)
            # Of rows that are penalised and want log-probabilities, those of before are kept.
            logits.clone()
            torch.cuda.synchronize(self.device)
        except torch.cuda.OutOfMemoryError as error:
            raise StartupError(
                f"weights and a step of {num_tokens} tokens do not fit on {self.device}: {error}"
            ) from error
        peak = torch.cuda.max_memory_allocated(self.device) - num_blocks * per_block
        peak += processors_bytes(self._config.max_batch_size, self.max_model_len, self._vocab_size, num_user_processors)
        del hidden, logits
        self._bind(1)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        others = total - free - torch.cuda.memory_reserved(self.device)
        return size_from_memory(self._config, per_block, peak, total, others)

    @torch.inference_mode()
    def _capture(self) -> StepGraphs | None:
        attention = [(each, group) for (_, group), each in self._attention.items()]
        captured = [(each, group) for each, group in attention if isinstance(each, GraphAttention)]
        model = self._model
        if not isinstance(model, DecoderModel) or not self._config.cuda_graphs or len(captured) < len(attention):
            return None
        return StepGraphs(
            model,
            self._build,
            self._linears,
            captured,
            max_rows=self._config.max_batch_size,
            max_blocks=-(-self.max_model_len // self._config.block_size),
            block_size=self._config.block_size,
            spare_block=self.num_blocks,
            num_groups=len(self.layout.groups),
        )


def _adapter_rows(config: ExecutorConfig, device: torch.device) -> AdapterRows | None:
    """None: the model takes no adapters."""
    most = config.max_adapters
    if most is None:
        most = _ADAPTERS_ON_CPU if device.type == "cpu" else 0
    return AdapterRows(most, config.max_adapter_rank) if most else None


def _attention(
    config: ExecutorConfig, outline: Outline, layout: CacheLayout, placement: Placement
) -> dict[tuple[AttentionShape, int], AttentionBackend]:
    """One for all layers of a shape in a cache group."""
    found: dict[tuple[AttentionShape, int], AttentionBackend] = {}
    first: dict[AttentionShape, AttentionBackend] = {}
    for shape, place in zip(outline.attention, layout.places, strict=True):
        if (shape, place.group) in found:
            continue
        if shape in first:
            found[shape, place.group] = first[shape].sibling()
            continue
        spec = placement.attention_spec(shape, config.block_size)
        try:
            first[shape] = found[shape, place.group] = attention_backend(config.attention, spec, placement.kernels)
        except ValueError as error:
            raise StartupError(str(error)) from error
    return found
