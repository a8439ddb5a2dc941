"""The backend of references in PyTorch: any device, any dtype."""

from typing import Final

import torch

from quire.kernels.adapters import adapted
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.backend import AttentionKernels, Backend, Capability, Requirements, SuiteOptions
from quire.kernels.experts import linear_experts
from quire.kernels.gated_linear import gated
from quire.kernels.kv_copy import kv_copy
from quire.kernels.linear import torch_linear
from quire.kernels.logprobs import logprobs
from quire.kernels.penalties import penalize
from quire.kernels.rms_norm import add_rms_norm, rms_norm
from quire.kernels.sampling import sample
from quire.kernels.suite import KernelSuite
from quire.kernels.take_rows import take_rows

TORCH_SUITE: Final = KernelSuite(
    name="torch",
    zeros=lambda shape, dtype, device: torch.zeros(*shape, dtype=dtype, device=device),
    attention=TorchAttention,
    linear=torch_linear,
    gated_linear=gated(torch_linear),
    adapted=adapted,
    experts=linear_experts(torch_linear, gated(torch_linear)),
    take_rows=take_rows,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    kv_copy=kv_copy,
    penalize=penalize,
    sample=sample,
    logprobs=logprobs,
    fuse_blocks=lambda shape, blocks: None,
)


def _load(options: SuiteOptions) -> KernelSuite:
    if options.device.type == "cpu":
        torch.set_num_threads(options.num_threads)
    return TORCH_SUITE


BACKEND: Final = Backend(
    name="torch",
    title="PyTorch",
    needs=Requirements(),
    capabilities=frozenset(),
    attention=(
        AttentionKernels(
            name="PyTorch",
            capabilities=frozenset(
                {
                    Capability.SLIDING_WINDOW,
                    Capability.LOGITS_SOFT_CAP,
                    Capability.SINKS,
                    Capability.LATENT,
                    Capability.FP8_KV_CACHE,
                }
            ),
        ),
    ),
    load=_load,
)
