"""In C++ for CPUs; blocks hold panels of matrix products, see csrc/attention.h."""

import weakref
from typing import Final

import torch
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.native.library import DTYPES, NativeLibrary

# A panel has 16 keys; a head is turned in halves of whole vectors and kept on the stack meanwhile.
_KEYS: Final = 16
_HEAD_DIMS: Final = range(32, 513, 16)


class NativeAttention:
    """Implements `AttentionBackend`. A token's result does not depend on the batch or the chunk it is in.

    Attributes:
        handle: the C++ side of it.
        num_passes: of the plan: how often 256 keys of a head are gone through, for however many queries at once.
    """

    def __init__(self, spec: AttentionSpec, library: NativeLibrary) -> None:
        """
        Raises:
            ValueError: `unsuited` says why.
        """
        if reason := unsuited(spec):
            raise ValueError(f"attention: 'native' {reason}")
        self._spec = spec
        self._library = library
        self._is_bf16 = spec.dtype == torch.bfloat16
        self.handle: int = library.attention_new(
            spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.block_size, spec.sliding_window or 0
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

    def append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        self._library.attention_append(
            self.handle,
            self._library.pool,
            self._is_bf16,
            layer_kv.data_ptr(),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q.stride(0),
            k.stride(0),
            v.stride(0),
            cos_sin.data_ptr(),
            self.batch.positions.data_ptr(),
            self.batch.slot_mapping.data_ptr(),
            q.shape[0],
        )

    def run(self, layer_kv: Tensor, q: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        self._library.attention_run(
            self.handle,
            self._library.pool,
            self._is_bf16,
            layer_kv.data_ptr(),
            q.data_ptr(),
            q.stride(0),
            out.data_ptr(),
        )
        return out


def unsuited(spec: AttentionSpec) -> str | None:
    """Why these kernels cannot do what a spec asks, or None."""
    if spec.device.type != "cpu":
        return f"needs the CPU, got {spec.device}"
    if spec.dtype not in DTYPES:
        return f"needs {' or '.join(str(dtype) for dtype in DTYPES)}, got {spec.dtype}"
    if spec.kv_dtype not in (None, spec.dtype):
        return f"needs a cache of the compute type, {spec.dtype}, got {spec.kv_dtype}"
    if spec.logits_soft_cap is not None:
        return f"needs scores without a soft cap, got {spec.logits_soft_cap}"
    if spec.block_size % _KEYS:
        return f"needs a block size that {_KEYS} divides, got {spec.block_size}"
    if spec.head_dim not in _HEAD_DIMS:
        return f"needs heads of {_HEAD_DIMS[0]} to {_HEAD_DIMS[-1]} in steps of 16, got {spec.head_dim}"
    return None
