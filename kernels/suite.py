"""The `KernelSuite`: one implementation of each operation, chosen together for a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.adapters import LinearAdapter
from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.decoder_blocks import BlockFuser
from quire.kernels.experts import ExpertsMaker
from quire.kernels.gated_linear import GatedLinearMaker
from quire.kernels.linear import LinearMaker
from quire.kernels.penalties import PenaltyRows
from quire.kernels.sampling import SamplingRows


@dataclass(frozen=True, slots=True)
class KernelSuite:
    """The operations of one backend; each operation's module documents its arguments.

    Attributes:
        name: of the `Backend` that made it.
        zeros: (shape, dtype, device) -> memory for keys and values, as the kernels read it best.
        attention: (spec) -> its attention, for specs that its `Backend` declares to compute.
        linear: (weight, bias, out_dtype) -> a linear layer.
        gated_linear: (weight, bias, out_dtype, activation) -> the first half of a gated network.
        adapted: (linear, adaptation) -> the same layer, which takes adapters.
        experts: (shape, activation) -> a mixture of experts.
        take_rows: (matrix, rows) -> matrix[rows].
        rms_norm: (x, weight, eps) -> normed.
        add_rms_norm: (x, residual, weight, eps) -> (normed, x + residual).
        kv_copy: (kv, sources, destinations) -> None, in place.
        penalize: (logits, rows) -> None, in place.
        sample: (logits, rows) -> token ids.
        logprobs: (logits, tokens, rows, num_top) -> (log-probabilities, ids of the most likely).
        fuse_blocks: (shape, blocks) -> all decoder blocks in one call, or None to compose them of the others.
        fast_dtypes: of a suite for CPUs, types narrower than float32 that the processor multiplies faster.
    """

    name: str
    zeros: Callable[[Sequence[int], torch.dtype, torch.device], Tensor]
    attention: Callable[[AttentionSpec], AttentionBackend]
    linear: LinearMaker
    gated_linear: GatedLinearMaker
    adapted: LinearAdapter
    experts: ExpertsMaker
    take_rows: Callable[[Tensor, Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    kv_copy: Callable[[Tensor, Tensor, Tensor], None]
    penalize: Callable[[Tensor, PenaltyRows], None]
    sample: Callable[[Tensor, SamplingRows], Tensor]
    logprobs: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
    fuse_blocks: BlockFuser
    fast_dtypes: frozenset[torch.dtype] = frozenset()
