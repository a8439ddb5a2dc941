"""The `KernelSuite`: one implementation of each operation, chosen together for a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.decoder_blocks import BlockFuser
from quire.kernels.gated_linear import gated
from quire.kernels.kv_copy import kv_copy
from quire.kernels.linear import LinearMaker, TorchLinear
from quire.kernels.logprobs import logprobs
from quire.kernels.penalties import PenaltyRows, penalize
from quire.kernels.rms_norm import add_rms_norm, rms_norm
from quire.kernels.sampling import SamplingRows, sample
from quire.kernels.take_rows import take_rows


@dataclass(frozen=True, slots=True)
class KernelSuite:
    """The operations of one backend; each operation's package documents its arguments.

    Attributes:
        name: what the log calls it.
        zeros: (shape, dtype, device) -> memory for keys and values, as the kernels read it best.
        attention: (spec) -> the fastest backend of attention here that can do what the spec asks.
        linear: (weight, bias, out_dtype) -> a linear layer.
        gated_linear: alike, the first half of a gated network.
        take_rows: (matrix, rows) -> matrix[rows].
        rms_norm: (x, weight, eps) -> normed.
        add_rms_norm: (x, residual, weight, eps) -> (normed, x + residual).
        kv_copy: (kv, sources, destinations) -> None, in place.
        penalize: (logits, rows) -> None, in place.
        sample: (logits, rows) -> token ids.
        logprobs: (logits, tokens, rows, num_top) -> (log-probabilities, ids of the most likely).
        fuse_blocks: (shape, blocks) -> all decoder blocks in one call, or None to compose them of the others.
    """

    name: str
    zeros: Callable[[Sequence[int], torch.dtype, torch.device], Tensor]
    attention: Callable[[AttentionSpec], AttentionBackend]
    linear: LinearMaker
    gated_linear: LinearMaker
    take_rows: Callable[[Tensor, Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    kv_copy: Callable[[Tensor, Tensor, Tensor], None]
    penalize: Callable[[Tensor, PenaltyRows], None]
    sample: Callable[[Tensor, SamplingRows], Tensor]
    logprobs: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
    fuse_blocks: BlockFuser


TORCH_SUITE = KernelSuite(
    name="torch",
    zeros=lambda shape, dtype, device: torch.zeros(*shape, dtype=dtype, device=device),
    attention=TorchAttention,
    linear=TorchLinear,
    gated_linear=gated(TorchLinear),
    take_rows=take_rows,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    kv_copy=kv_copy,
    penalize=penalize,
    sample=sample,
    logprobs=logprobs,
    fuse_blocks=lambda shape, blocks: None,
)
"""The references: any device, any dtype."""
