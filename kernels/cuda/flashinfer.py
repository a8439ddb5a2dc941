"""FlashInfer's wrappers of paged attention (Ye et al., "FlashInfer", 2025), which share one workspace on a device."""

import math
from typing import Any, Final

import torch
from flashinfer import BatchPrefillWithPagedKVCacheWrapper
from torch import Tensor

from quire.kernels.attention import AttentionSpec

# Parts of rows whose keys are split: two tiles of 128 queries for each of 132 multiprocessors take 264 MiB with 16
# queries a key head of 128.
WORKSPACE_BYTES: Final = 512 << 20


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


class ContextWrappers:
    """Makes wrappers for rows of several tokens; steps follow each other, so that all can share what they work in.

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
        self._has_sinks = spec.has_sinks
        self.types = {
            "window_left": -1 if spec.sliding_window is None else spec.sliding_window - 1,
            "q_data_type": spec.dtype,
            "kv_data_type": spec.stored,
            "logits_soft_cap": spec.logits_soft_cap,
            "sm_scale": spec.scale,
        }

    def wrapper(self) -> Any:
        """A new one, to be planned and run."""
        wrapper = BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD")
        return _WithSinks(wrapper) if self._has_sinks else wrapper
