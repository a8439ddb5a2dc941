"""In C++ for CPUs; blocks hold panels of matrix products, see csrc/attention.h."""

import weakref
from typing import Final

import torch
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.backend import AttentionKernels, Capability
from quire.kernels.native.library import DTYPES, NativeLibrary

# A panel has 16 keys; a head is turned in halves of whole vectors and kept on the stack meanwhile.
KERNELS: Final = AttentionKernels(
    name="C++",
    capabilities=frozenset(
        {
            Capability.SLIDING_WINDOW,
            Capability.LOGITS_SOFT_CAP,
            Capability.SINKS,
            Capability.LATENT,
            Capability.SHARED_PREFIX,
        }
    ),
    device_type="cpu",
    dtypes=DTYPES,
    head_dims=range(32, 577, 16),
    value_dims=range(16, 577, 16),
    block_size_step=16,
)


class NativeAttention:
    """Implements `AttentionBackend`. A token's result does not depend on the batch or the chunk it is in.

    Attributes:
        handle: the C++ side of it.
        num_passes: of the plan: how often 256 keys of a head are gone through, for however many queries at once.
    """

    def __init__(self, spec: AttentionSpec, library: NativeLibrary) -> None:
        """
        Raises:
            ValueError: `KERNELS.unsupported_reason` says why.
        """
        if reason := KERNELS.unsupported_reason(spec):
            raise ValueError(f"attention: 'native' {reason}")
        self._spec = spec
        self._library = library
        self._is_bf16 = spec.dtype == torch.bfloat16
        self.handle: int = library.attention_new(
            spec.num_qo_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.block_size,
            spec.sliding_window or 0,
            spec.value_dim or 0,
            spec.divisor,
            spec.logits_soft_cap or 0,
        )
        weakref.finalize(self, library.attention_delete, self.handle)
        self.num_passes = 0
        self._batch: PagedBatch | None = None

    @property
    def batch(self) -> PagedBatch:
        """The batch that is planned.

        Raises:
            RuntimeError: none is.
        """
        if self._batch is None:
            raise RuntimeError("attention has no plan yet")
        return self._batch

    def sibling(self) -> "NativeAttention":
        return NativeAttention(self._spec, self._library)

    def plan(self, batch: PagedBatch) -> None:
        self._batch = batch
        self.num_passes = self._library.attention_plan(
            self.handle,
            self._library.num_threads,
            len(batch.kv_lens),
            batch.qo_indptr.ctypes.data,
            batch.kv_indptr.ctypes.data,
            batch.kv_indices.ctypes.data,
            batch.kv_lens.ctypes.data,
        )

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor | None) -> None:
        self._append(layer_kv, None, k, v, None)

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        self._append(layer_kv, q, k, v, cos_sin)

    def run(self, layer_kv: Tensor, q: Tensor, *, sinks: Tensor | None = None) -> Tensor:
        self._spec.check_sinks(sinks)
        out = torch.empty(*q.shape[:-1], self._spec.out_dim, dtype=q.dtype)
        self._library.attention_run(
            self.handle,
            self._library.pool,
            self._is_bf16,
            layer_kv.data_ptr(),
            q.data_ptr(),
            q.stride(0),
            out.data_ptr(),
            None if sinks is None else sinks.data_ptr(),
        )
        return out

    def _append(self, layer_kv: Tensor, q: Tensor | None, k: Tensor, v: Tensor | None, cos_sin: Tensor | None) -> None:
        self._library.attention_append(
            self.handle,
            self._library.pool,
            self._is_bf16,
            layer_kv.data_ptr(),
            None if q is None else q.data_ptr(),
            k.data_ptr(),
            None if v is None else v.data_ptr(),
            0 if q is None else q.stride(0),
            k.stride(0),
            0 if v is None else v.stride(0),
            None if cos_sin is None else cos_sin.data_ptr(),
            self.batch.positions.data_ptr(),
            self.batch.slot_mapping.data_ptr(),
            k.shape[0],
        )
