"""Latent attention on a GPU: FlashInfer's kernels, which compute context and generation alike (Ye et al., 2025)."""

from typing import Any

import numpy as np
import torch
from flashinfer.mla import BatchMLAPagedAttentionWrapper
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.cuda.flashinfer import WORKSPACE_BYTES
from quire.kernels.kv_append import kv_append


class CudaLatentAttention:
    """Implements `AttentionBackend`, and `GraphAttention` of `quire.engine.model.cuda_graphs`."""

    def __init__(self, spec: AttentionSpec, workspace: Tensor | None = None) -> None:
        """
        Args:
            workspace: of a sibling.
        """
        self._spec = spec
        if workspace is None:
            workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=spec.device)
        self._workspace = workspace
        self._wrapper = self._planned_wrapper = BatchMLAPagedAttentionWrapper(self._workspace)
        self._fixed: dict[int, Any] = {}
        self._block_ids = self._room(0)
        self._places: tuple[Tensor, Tensor] | None = None
        self._planned = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def sibling(self) -> "CudaLatentAttention":
        return CudaLatentAttention(self._spec, self._workspace)

    def plan(self, batch: PagedBatch) -> None:
        self._plan(self._wrapper, batch)

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """As `CudaAttention.reserve`."""
        if len(self._block_ids) < num_indices:
            self._block_ids = self._room(num_indices)
        self._fixed[num_rows] = BatchMLAPagedAttentionWrapper(
            self._workspace,
            use_cuda_graph=True,
            qo_indptr=self._room(num_rows + 1),
            kv_indptr=self._room(num_rows + 1),
            kv_indices=self._block_ids,
            kv_len_arr=self._room(num_rows),
        )

    def shares(self, batch: PagedBatch) -> bool:
        """No prefix is computed once for several rows."""
        return False

    def plan_fixed(self, batch: PagedBatch) -> None:
        """As `plan`, for a generation step of a size that was reserved."""
        self._plan(self._fixed[len(batch.kv_lens)], batch)

    def place(self, positions: Tensor, slot_mapping: Tensor) -> None:
        """What `append` reads until the next plan."""
        self._places = positions, slot_mapping

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor | None) -> None:
        if self._places is None:
            raise RuntimeError("append before plan")
        kv_append(layer_kv, k, v, self._places[1])

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        """
        Raises:
            NotImplementedError: only a part of a latent key is rotated, which is the model's affair.
        """
        raise NotImplementedError("attention: latent keys are appended as they are")

    def run(self, layer_kv: Tensor, q: Tensor, out: Tensor | None = None, *, sinks: Tensor | None = None) -> Tensor:
        self._spec.check_sinks(sinks)
        size, latents = self._spec.out_dim, layer_kv[:, 0, :, 0]
        if out is None:
            out = torch.empty(*q.shape[:-1], size, dtype=q.dtype, device=q.device)
        self._planned_wrapper.run(q[..., :size], q[..., size:], latents[..., :size], latents[..., size:], out=out)
        return out

    def _plan(self, wrapper: Any, batch: PagedBatch) -> None:
        spec = self._spec
        # A plan is written to pinned memory that is copied when the device comes to it.
        self._planned.synchronize()
        host = (torch.from_numpy(each.astype(np.int32)) for each in (batch.qo_indptr, batch.kv_indptr, batch.kv_lens))
        qo_indptr, kv_indptr, kv_lens = host
        wrapper.plan(
            qo_indptr, kv_indptr, batch.block_ids, kv_lens, spec.num_qo_heads, spec.out_dim,
            spec.head_dim - spec.out_dim, spec.block_size, True, 1 / spec.divisor, spec.dtype, spec.dtype,
        )  # fmt: skip
        self._planned.record()
        self._planned_wrapper = wrapper
        self.place(batch.positions, batch.slot_mapping)

    def _room(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._spec.device)
