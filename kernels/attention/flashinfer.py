"""FlashInfer's paged attention (Ye et al., "FlashInfer", 2025): planned once per step, run once per layer.

Steps of changing shape, context and generation mixed, go through the prefill kernels; steps of generation alone that
a CUDA graph replays through the decode kernels, whose buffers then stay where they are.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from flashinfer import BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper
from numpy.typing import NDArray
from torch import Tensor

from quire.kernels.attention.base import AttentionSpec, PagedBatch
from quire.kernels.rope.triton import rope_append

HEAD_DIMS: Final = (64, 128, 256)
DTYPES: Final = (torch.float16, torch.bfloat16)
# What 1,024 rows of 32 heads of 128 need to add up their parts is 320 MiB.
WORKSPACE_BYTES: Final = 512 << 20
# From so many queries per key head on, decoding on tensor cores is the faster way: for one sequence of 1,024 tokens and
# four heads to a key head, a layer took 9.9 µs in place of 15.5 on an H100.
_TENSOR_CORE_GROUPS: Final = 4


def unsuited(spec: AttentionSpec) -> str | None:
    """Why these kernels cannot do what the spec asks, or None."""
    if spec.head_dim not in HEAD_DIMS:
        return f"head_dim must be one of {HEAD_DIMS}, got {spec.head_dim}"
    if spec.dtype not in DTYPES:
        return f"dtype must be float16 or bfloat16, got {spec.dtype}"
    if spec.kv_dtype not in (None, spec.dtype, torch.float8_e4m3fn):
        return f"kv_dtype must be the dtype or float8_e4m3fn, got {spec.kv_dtype}"
    return None


class FlashInferAttention:
    """Implements `AttentionBackend`, and `GraphAttention` of `quire.engine.model.cuda_graphs`."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=spec.device)
        self._eager = BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._fixed: dict[int, Any] = {}
        self._block_ids = torch.empty(0, dtype=torch.int32, device=spec.device)
        self._run: Callable[[Tensor, Tensor], Tensor] = self._eager.run
        self._batch: PagedBatch | None = None
        self._planned = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._common = {
            "window_left": -1 if spec.sliding_window is None else spec.sliding_window - 1,
            "q_data_type": spec.dtype,
            "kv_data_type": spec.kv_dtype or spec.dtype,
        }

    def plan(self, batch: PagedBatch) -> None:
        spec = self._spec
        self._settle()
        self._eager.plan(
            torch.from_numpy(batch.qo_indptr),
            torch.from_numpy(batch.kv_indptr),
            batch.block_ids,
            torch.from_numpy(self._last_page_len(batch)),
            spec.num_qo_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.block_size,
            causal=True,
            **self._common,
        )
        self._planned.record()
        self._batch, self._run = batch, self._eager.run

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """Make the buffers of generation steps of `num_rows` rows with up to `num_indices` blocks.

        One buffer of block ids serves all sizes, as steps follow each other: the largest must come first.
        """
        spec = self._spec

        def room(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int32, device=spec.device)

        if len(self._block_ids) < num_indices:
            self._block_ids = room(num_indices)
        self._fixed[num_rows] = BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=spec.num_qo_heads // spec.num_kv_heads >= _TENSOR_CORE_GROUPS,
            paged_kv_indptr_buffer=room(num_rows + 1),
            paged_kv_indices_buffer=self._block_ids,
            paged_kv_last_page_len_buffer=room(num_rows),
        )

    def plan_fixed(self, batch: PagedBatch) -> None:
        """As `plan`, for a generation step of a size that was reserved; the device tensors of `batch` stay."""
        spec, wrapper = self._spec, self._fixed[len(batch.kv_lens)]
        self._settle()
        wrapper.plan(
            torch.from_numpy(batch.kv_indptr),
            batch.block_ids,
            torch.from_numpy(self._last_page_len(batch)),
            spec.num_qo_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.block_size,
            **self._common,
        )
        self._planned.record()
        self._batch, self._run = batch, wrapper.run

    def append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        if self._batch is None:
            raise RuntimeError("append before plan")
        rope_append(layer_kv, q, k, v, cos_sin, self._batch.positions, self._batch.slot_mapping)

    def run(self, layer_kv: Tensor, q: Tensor) -> Tensor:
        return self._run(q, layer_kv)

    def _settle(self) -> None:
        """A plan is written to pinned memory that is copied when the device comes to it: not before that is over."""
        self._planned.synchronize()

    def _last_page_len(self, batch: PagedBatch) -> NDArray[np.int32]:
        return (batch.kv_lens - 1) % np.int32(self._spec.block_size) + 1
