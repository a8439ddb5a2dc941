"""Paged attention on a GPU: planned once per step, run once per layer.

Context rows go through FlashInfer's prefill kernels, or with heads that it does not know through our own. Rows of
generation are decoded by a kernel of our own, also where one step has both: in a prefill kernel a row of one token
would fill a whole tile of queries. What a CUDA graph replays has a plan of its own, whose buffers stay where they are.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.attention_window import within_window
from quire.kernels.cuda.attention_context import TritonContext
from quire.kernels.cuda.attention_decode import TritonDecode
from quire.kernels.cuda.attention_shared import SharedDecode, plan_tasks, warm_up
from quire.kernels.cuda.attention_widened import WidenedContext, is_worth_widening
from quire.kernels.cuda.backend import FLASHINFER_HEAD_DIMS
from quire.kernels.cuda.flashinfer import ContextWrappers
from quire.kernels.cuda.rope_append import rope_append
from quire.kernels.cuda.shared_prefixes import SharedPrefix, shared_prefixes
from quire.kernels.kv_append import kv_append

# Keys and values of a layer that a prefix must spare. To read them takes an H200 0.13 ms, and as long takes the host to
# launch what no graph has then.
_LEAST_SPARED_BYTES: Final = 512 << 20


class CudaAttention:
    """Implements `AttentionBackend`, and `GraphAttention` of `quire.engine.model.cuda_graphs`."""

    def __init__(self, spec: AttentionSpec, workspace: Tensor | None = None) -> None:
        """
        Args:
            workspace: of a sibling.
        """
        self._spec = spec
        is_known = spec.head_dim in FLASHINFER_HEAD_DIMS
        self._wrappers = ContextWrappers(spec, is_known, workspace)
        self._context: Any = self._wrappers.wrapper() if is_known else TritonContext(spec)
        is_narrow = spec.stored != spec.dtype
        self._widened = WidenedContext(spec, self._wrappers.wrapper()) if is_known and is_narrow else None
        # With a window most of a prefix is seen by nobody.
        self._can_share = spec.sliding_window is None
        self._fixed: dict[int, TritonDecode] = {}
        self._block_ids = torch.empty(0, dtype=torch.int32, device=spec.device)
        # Wrappers, each with the tokens it computes.
        self._parts: list[tuple[Any, slice]] = []
        self._places: tuple[Tensor, Tensor] | None = None
        self._planned = torch.cuda.Event()  # type: ignore[no-untyped-call]
        if self._can_share:
            warm_up(spec)

    def sibling(self) -> "CudaAttention":
        return CudaAttention(self._spec, self._wrappers.workspace)

    def plan(self, batch: PagedBatch) -> None:
        batch = self._seen(batch)
        longer = np.flatnonzero(np.diff(batch.qo_indptr) > 1)
        num_context = int(longer[-1]) + 1 if len(longer) else 0
        first, num_tokens = (int(batch.qo_indptr[row]) for row in (num_context, -1))
        self._settle()
        self._parts = []
        self.place(batch.positions, batch.slot_mapping)
        if num_context:
            self._parts.append((self._plan_context(batch, num_context), slice(first)))
        if first < num_tokens:
            self._parts.append((self._plan_generation(batch, num_context), slice(first, num_tokens)))
        self._planned.record()

    def _plan_context(self, batch: PagedBatch, num_context: int) -> Any:
        widened, context = self._widened, self._context
        if widened is not None and is_worth_widening(batch, num_context, self._spec):
            context = widened
        qo_indptr = torch.from_numpy(batch.qo_indptr[: num_context + 1])
        self._plan(context, batch, slice(num_context), qo_indptr, causal=True)
        return context

    def _plan_generation(self, batch: PagedBatch, num_context: int) -> Any:
        count, prefixes = len(batch.kv_lens) - num_context, self._prefixes(batch, num_context)
        spec, indptr = self._spec, batch.kv_indptr[num_context:] - batch.kv_indptr[num_context]
        blocks = self._room(int(indptr[-1]))
        decode = TritonDecode(spec, self._room(count + 1), blocks, self._room(count))
        self._plan(decode, batch, slice(num_context, None))
        if not prefixes:
            return decode
        groups = spec.num_qo_heads // spec.num_kv_heads
        tasks = plan_tasks(prefixes, indptr, spec.block_size, groups, spec.num_kv_heads)
        return SharedDecode(spec, decode, tasks, blocks)

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
            **self._wrappers.types,
        )

    def reserve(self, num_rows: int, num_indices: int) -> None:
        """Make the buffers of generation steps of `num_rows` rows with up to `num_indices` blocks.

        One buffer of block ids serves all sizes, as steps follow each other: the largest must come first.
        """
        if len(self._block_ids) < num_indices:
            self._block_ids = self._room(num_indices)
        self._fixed[num_rows] = TritonDecode(
            self._spec, self._room(num_rows + 1), self._block_ids, self._room(num_rows)
        )

    def shares(self, batch: PagedBatch) -> bool:
        """Whether rows of generation share a prefix so long that `plan` is better than `plan_fixed`."""
        return bool(self._prefixes(batch, 0))

    def plan_fixed(self, batch: PagedBatch) -> None:
        """As `plan`, for a generation step of a size that was reserved; the device tensors of `batch` stay."""
        num_rows, batch = len(batch.kv_lens), self._seen(batch)
        self._settle()
        self._plan(self._fixed[num_rows], batch, slice(None))
        self._planned.record()
        self._parts = [(self._fixed[num_rows], slice(num_rows))]
        self.place(batch.positions, batch.slot_mapping)

    def place(self, positions: Tensor, slot_mapping: Tensor) -> None:
        """What `append` reads until the next plan."""
        self._places = positions, slot_mapping

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor | None) -> None:
        kv_append(layer_kv, k, v, self._placed()[1])

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        rope_append(layer_kv, q, k, v, cos_sin, *self._placed())

    def _placed(self) -> tuple[Tensor, Tensor]:
        if self._places is None:
            raise RuntimeError("append before plan")
        return self._places

    def run(self, layer_kv: Tensor, q: Tensor, out: Tensor | None = None, *, sinks: Tensor | None = None) -> Tensor:
        self._spec.check_sinks(sinks)
        options = {} if sinks is None else {"sinks": sinks}
        if out is None:
            out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for wrapper, tokens in self._parts:
            wrapper.run(q[tokens], layer_kv, out=out[tokens], **options)
        return out

    def _prefixes(self, batch: PagedBatch, num_context: int) -> list[SharedPrefix]:
        """Shared prefixes to compute once, among the rows behind the first `num_context`."""
        if not self._can_share:
            return []
        spec = self._spec
        block_bytes = 2 * spec.block_size * spec.num_kv_heads * spec.head_dim * spec.stored.itemsize
        indptr = batch.kv_indptr[num_context:]
        indices = batch.kv_indices[indptr[0] :]
        return shared_prefixes(indptr - indptr[0], indices, spec.block_size, _LEAST_SPARED_BYTES // block_bytes)

    def _seen(self, batch: PagedBatch) -> PagedBatch:
        """FlashInfer reads all blocks of a row, and would multiply what it hides by zero: also what is not a number."""
        return within_window(batch, self._spec.sliding_window, self._spec.block_size)

    def _room(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._spec.device)

    def _settle(self) -> None:
        """A plan is written to pinned memory that is copied when the device comes to it: not before that is over."""
        self._planned.synchronize()

    def _last_page_len(self, batch: PagedBatch) -> NDArray[np.int32]:
        return (batch.kv_lens - 1) % np.int32(self._spec.block_size) + 1
