"""FlashInfer's wrappers of paged attention (Ye et al., "FlashInfer", 2025), which share one workspace on a device."""

import math
from typing import Any, Final

import torch
from flashinfer import BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper
from torch import Tensor

from quire.kernels.attention import AttentionSpec

# What 1,024 rows of 32 heads of 128 need to add up their parts is 320 MiB.
WORKSPACE_BYTES: Final = 512 << 20
# Planned indices of one step; what 1,024 rows need is 40 KiB.
INDEX_BYTES: Final = 1 << 20
# From this number of queries per key head on, decoding is faster on tensor cores. On an H100 a layer took 10.8 µs
# instead of 17.0 for one row of 1,024 tokens with four.
_TENSOR_CORE_GROUPS: Final = 4


class _WithSinks:
    """A wrapper whose results take sinks into account.

    FlashInfer tells the sum of every softmax, as a power of two. What sinks leave to the keys is a factor.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self.plan = wrapper.plan

    def run(self, q: Tensor, layer_kv: Tensor, out: Tensor, sinks: Tensor) -> None:
        _, exponents = self._wrapper.run(q, layer_kv, out=out, return_lse=True)
        out.mul_(torch.sigmoid(exponents * math.log(2) - sinks).unsqueeze(-1))


class FlashInferWrappers:
    """Makes wrappers for a spec; steps follow each other, so that all can share what they work in.

    Attributes:
        types: arguments of every plan beside the sizes.
        workspace: what runs work in.
    """

    def __init__(self, spec: AttentionSpec, is_known: bool, workspace: Tensor | None = None) -> None:
        """
        Args:
            is_known: whether FlashInfer has kernels for the spec; if not, no wrapper runs, and no workspace is needed.
            workspace: of other wrappers of the device.
        """
        if workspace is None:
            workspace = torch.empty(WORKSPACE_BYTES * is_known, dtype=torch.uint8, device=spec.device)
        self.workspace = workspace
        self._indices = torch.empty(INDEX_BYTES, dtype=torch.uint8, device=spec.device)
        self._tensor_cores = spec.num_qo_heads // spec.num_kv_heads >= _TENSOR_CORE_GROUPS
        self._has_sinks = spec.has_sinks
        self.types = {
            "window_left": -1 if spec.sliding_window is None else spec.sliding_window - 1,
            "q_data_type": spec.dtype,
            "kv_data_type": spec.stored,
            "logits_soft_cap": spec.logits_soft_cap,
            "sm_scale": spec.scale,
        }

    def context(self) -> Any:
        """For rows of several tokens."""
        return self._finished(BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD"))

    def generation(self) -> Any:
        """For rows of one token."""
        wrapper = BatchDecodeWithPagedKVCacheWrapper(self.workspace, "NHD", use_tensor_cores=self._tensor_cores)
        return self._finished(wrapper)

    def fixed_generation(self, indptr: Tensor, block_ids: Tensor, last_page_len: Tensor) -> Any:
        """For as many rows of one token as the buffers are for, which a CUDA graph reads."""
        wrapper = BatchDecodeWithPagedKVCacheWrapper(
            self.workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=self._tensor_cores,
            paged_kv_indptr_buffer=indptr,
            paged_kv_indices_buffer=block_ids,
            paged_kv_last_page_len_buffer=last_page_len,
        )
        # One buffer does for all sizes in place of 8 MiB for each.
        wrapper.reset_workspace_buffer(self.workspace, self._indices)
        return self._finished(wrapper)

    def _finished(self, wrapper: Any) -> Any:
        return _WithSinks(wrapper) if self._has_sinks else wrapper
