"""Which kernel decodes rows of one token: FlashInfer's or our own, and which prefixes our own computes once."""

from typing import Final

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.cuda.backend import FLASHINFER_HEAD_DIMS, TRITON
from quire.kernels.cuda.shared_prefixes import SharedPrefix, shared_prefixes

# From this number of rows times key heads on, our own kernel is the fastest. On an H200 it took 66 µs instead of 78 for
# 64 rows of 1,024 tokens. It took 244 instead of 269 for 256 rows, and 195 instead of 275 for 1,024 rows of 190.
_LEAST_PROGRAMS: Final = 512
# Keys and values of a layer that a prefix must spare. To read them takes an H200 0.13 ms, and as long takes the host to
# launch what no graph has then.
_LEAST_SPARED_BYTES: Final = 512 << 20


class DecodeChoice:
    """Kernels chosen for a spec.

    Attributes:
        is_known: whether FlashInfer has kernels for these heads.
        is_plain: whether our own kernels can do what the spec asks.
        can_widen: whether blocks of an fp8 cache may be widened for context. Ours reads them as they are.
        can_share: whether prefixes may be computed once. With a window most of a prefix is seen by nobody.
    """

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self.is_known = spec.head_dim in FLASHINFER_HEAD_DIMS
        self.is_plain = TRITON.unsupported_reason(spec) is None
        self.can_widen = self.is_known and spec.stored != spec.dtype
        self.can_share = self.is_plain and spec.sliding_window is None

    def is_ours(self, num_rows: int) -> bool:
        """Whether our own kernel decodes this number of rows."""
        many = num_rows * self._spec.num_kv_heads >= _LEAST_PROGRAMS
        return not self.is_known or (self.is_plain and many)

    def prefixes(self, batch: PagedBatch, num_context: int) -> list[SharedPrefix]:
        """Shared prefixes to compute once, among the rows behind the first `num_context`."""
        spec = self._spec
        if not self.can_share:
            return []
        block_bytes = 2 * spec.block_size * spec.num_kv_heads * spec.head_dim * spec.stored.itemsize
        indptr = batch.kv_indptr[num_context:]
        indices = batch.kv_indices[indptr[0] :]
        return shared_prefixes(indptr - indptr[0], indices, spec.block_size, _LEAST_SPARED_BYTES // block_bytes)
