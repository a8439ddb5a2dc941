"""FlashInfer's paged attention (Ye et al., "FlashInfer", 2025): planned once per step, run once per layer.

Rows of context go through the prefill kernels, rows of generation through those for decoding, also where one step has
both: a row of one token would fill a whole tile of queries. Many rows of generation are decoded by a kernel of our own;
with heads that FlashInfer does not know, all rows are computed by such.
What a CUDA graph replays has wrappers of its own, whose buffers stay where they are.
"""

from typing import Any, Final

import numpy as np
import torch
from flashinfer import BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper
from numpy.typing import NDArray
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.cuda.attention_context import TritonContext
from quire.kernels.cuda.attention_decode import TritonDecode
from quire.kernels.cuda.attention_shared import SharedDecode, plan_tasks, rehearse
from quire.kernels.cuda.rope_append import rope_append
from quire.kernels.cuda.shared_prefixes import SharedPrefix, shared_prefixes

HEAD_DIMS: Final = (64, 128, 256)
DTYPES: Final = (torch.float16, torch.bfloat16)
# What 1,024 rows of 32 heads of 128 need to add up their parts is 320 MiB.
WORKSPACE_BYTES: Final = 512 << 20
# Planned indices of one step; what 1,024 rows need is 40 KiB.
INDEX_BYTES: Final = 1 << 20
# From so many queries per key head on, decoding is faster on tensor cores: on an H100 a layer took 10.8 µs in place of
# 17.0 for one row of 1,024 tokens with four.
_TENSOR_CORE_GROUPS: Final = 4
# From so many rows times key heads on, our own kernel is the fastest: on an H200 it took 66 µs in place of 78 for 64
# rows of 1,024 tokens, 244 in place of 269 for 256, and 195 in place of 275 for 1,024 rows of 190.
_LEAST_PROGRAMS: Final = 512
# Keys and values of a layer that a prefix must spare. To read them takes an H200 0.13 ms, and as long takes the host to
# launch what no graph has then.
_LEAST_SPARED_BYTES: Final = 512 << 20


def unsuited(spec: AttentionSpec) -> str | None:
    """Why these kernels cannot do what the spec asks, or None."""
    if spec.dtype not in DTYPES:
        return f"dtype must be float16 or bfloat16, got {spec.dtype}"
    if spec.kv_dtype not in (None, spec.dtype, torch.float8_e4m3fn):
        return f"kv_dtype must be the dtype or float8_e4m3fn, got {spec.kv_dtype}"
    if spec.head_dim not in HEAD_DIMS and not _is_plain(spec):
        return f"head_dim must be one of {HEAD_DIMS} with windows, soft caps or float8, got {spec.head_dim}"
    if spec.head_dim > HEAD_DIMS[-1]:
        return f"head_dim must be at most {HEAD_DIMS[-1]}, got {spec.head_dim}"
    return None


def _is_plain(spec: AttentionSpec) -> bool:
    """Our own kernels know neither windows, soft caps nor another type of cache."""
    return (spec.sliding_window, spec.logits_soft_cap, spec.kv_dtype or spec.dtype) == (None, None, spec.dtype)


class FlashInferAttention:
    """Implements `AttentionBackend`, and `GraphAttention` of `quire.engine.model.cuda_graphs`."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._is_plain, self._is_known = _is_plain(spec), spec.head_dim in HEAD_DIMS
        self._workspace = torch.empty(WORKSPACE_BYTES * self._is_known, dtype=torch.uint8, device=spec.device)
        self._indices = torch.empty(INDEX_BYTES, dtype=torch.uint8, device=spec.device)
        self._context: Any = TritonContext()
        if self._is_known:
            self._context = BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._tensor_cores = spec.num_qo_heads // spec.num_kv_heads >= _TENSOR_CORE_GROUPS
        self._generation = BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "NHD", use_tensor_cores=self._tensor_cores
        )
        self._fixed: dict[int, Any] = {}
        self._block_ids = torch.empty(0, dtype=torch.int32, device=spec.device)
        # Wrappers, each with the tokens it computes.
        self._parts: list[tuple[Any, slice]] = []
        self._places: tuple[Tensor, Tensor] | None = None
        self._planned = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._common = {
            "window_left": -1 if spec.sliding_window is None else spec.sliding_window - 1,
            "q_data_type": spec.dtype,
            "kv_data_type": spec.kv_dtype or spec.dtype,
            "logits_soft_cap": spec.logits_soft_cap,
        }
        if self._is_plain:
            rehearse(spec)

    def plan(self, batch: PagedBatch) -> None:
        longer = np.flatnonzero(np.diff(batch.qo_indptr) > 1)
        num_context = int(longer[-1]) + 1 if len(longer) else 0
        first, num_tokens = (int(batch.qo_indptr[row]) for row in (num_context, -1))
        self._settle()
        self._parts = []
        self.place(batch.positions, batch.slot_mapping)
        if num_context:
            qo_indptr = torch.from_numpy(batch.qo_indptr[: num_context + 1])
            self._plan(self._context, batch, slice(num_context), qo_indptr, causal=True)
            self._parts.append((self._context, slice(first)))
        if first < num_tokens:
            self._parts.append((self._plan_generation(batch, num_context), slice(first, num_tokens)))
        self._planned.record()

    def _plan_generation(self, batch: PagedBatch, num_context: int) -> Any:
        count, prefixes = len(batch.kv_lens) - num_context, self._prefixes(batch, num_context)
        if not prefixes and not self._is_ours(count):
            self._plan(self._generation, batch, slice(num_context, None))
            return self._generation
        spec, indptr = self._spec, batch.kv_indptr[num_context:] - batch.kv_indptr[num_context]
        blocks = self._room(int(indptr[-1]))
        decode = TritonDecode(self._room(count + 1), blocks, self._room(count))
        self._plan(decode, batch, slice(num_context, None))
        if not prefixes:
            return decode
        groups = spec.num_qo_heads // spec.num_kv_heads
        tasks = plan_tasks(prefixes, indptr, spec.block_size, groups, spec.num_kv_heads)
        return SharedDecode(decode, tasks, blocks, spec.num_qo_heads, spec.head_dim)

    def _prefixes(self, batch: PagedBatch, num_context: int) -> list[SharedPrefix]:
        """Those of the rows of generation that should be computed once."""
        spec = self._spec
        if not self._is_plain:
            return []
        block_bytes = 2 * spec.block_size * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize
        indptr = batch.kv_indptr[num_context:]
        indices = batch.kv_indices[indptr[0] :]
        return shared_prefixes(indptr - indptr[0], indices, spec.block_size, _LEAST_SPARED_BYTES // block_bytes)

    def _plan(self, wrapper: Any, batch: PagedBatch, rows: slice, *qo_indptr: Tensor, **options: Any) -> None:
        """Plan some of the rows."""
        spec = self._spec
        indptr = batch.kv_indptr[rows.start or 0 : None if rows.stop is None else rows.stop + 1]
        wrapper.plan(
            *qo_indptr,
            torch.from_numpy(indptr - indptr[0]),
            batch.block_ids[indptr[0] : indptr[-1]],
            torch.from_numpy(self._last_page_len(batch)[rows]),
            spec.num_qo_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.block_size,
            **options,
            **self._common,
        )

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """Make the buffers of generation steps of `num_rows` rows with up to `num_indices` blocks.

        One buffer of block ids serves all sizes, as steps follow each other: the largest must come first.
        """
        if len(self._block_ids) < num_indices:
            self._block_ids = self._room(num_indices)
        indptr, last_page_len = self._room(num_rows + 1), self._room(num_rows)
        if self._is_ours(num_rows):
            self._fixed[num_rows] = TritonDecode(indptr, self._block_ids, last_page_len)
            return
        wrapper = BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=self._tensor_cores,
            paged_kv_indptr_buffer=indptr,
            paged_kv_indices_buffer=self._block_ids,
            paged_kv_last_page_len_buffer=last_page_len,
        )
        # Steps follow each other, so that one buffer does for all sizes in place of 8 MiB for each.
        wrapper.reset_workspace_buffer(self._workspace, self._indices)
        self._fixed[num_rows] = wrapper

    def shares(self, batch: PagedBatch) -> bool:
        """Whether rows of generation share a prefix so long that `plan` is better than `plan_fixed`."""
        return bool(self._prefixes(batch, 0))

    def plan_fixed(self, batch: PagedBatch) -> None:
        """As `plan`, for a generation step of a size that was reserved; the device tensors of `batch` stay."""
        num_rows = len(batch.kv_lens)
        self._settle()
        self._plan(self._fixed[num_rows], batch, slice(None))
        self._planned.record()
        self._parts = [(self._fixed[num_rows], slice(num_rows))]
        self.place(batch.positions, batch.slot_mapping)

    def place(self, positions: Tensor, slot_mapping: Tensor) -> None:
        """What `append` reads until the next plan."""
        self._places = positions, slot_mapping

    def append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        if self._places is None:
            raise RuntimeError("append before plan")
        rope_append(layer_kv, q, k, v, cos_sin, *self._places)

    def run(self, layer_kv: Tensor, q: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for wrapper, tokens in self._parts:
            wrapper.run(q[tokens], layer_kv, out=out[tokens])
        return out

    def _is_ours(self, num_rows: int) -> bool:
        """Whether our own kernel decodes so many rows."""
        many = num_rows * self._spec.num_kv_heads >= _LEAST_PROGRAMS
        return not self._is_known or (self._is_plain and many)

    def _room(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._spec.device)

    def _settle(self) -> None:
        """A plan is written to pinned memory that is copied when the device comes to it: not before that is over."""
        self._planned.synchronize()

    def _last_page_len(self, batch: PagedBatch) -> NDArray[np.int32]:
        return (batch.kv_lens - 1) % np.int32(self._spec.block_size) + 1
