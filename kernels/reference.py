"""The backend of references in PyTorch: any device, any dtype."""

from dataclasses import replace
from typing import Final

import torch

from quire.kernels.attention_reference import TorchAttention
from quire.kernels.backend import AttentionKernels, Backend, Capability, Requirements, SuiteOptions
from quire.kernels.gated_linear import gated
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.kv_copy import kv_copy
from quire.kernels.linear import TorchLinear
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


def _load(options: SuiteOptions) -> KernelSuite:
    if options.device.type == "cpu":
        torch.set_num_threads(options.num_threads)
    if options.int8:
        return replace(TORCH_SUITE, linear=Int8Linear.pack, gated_linear=gated(Int8Linear.pack))
    return TORCH_SUITE


BACKEND: Final = Backend(
    name="torch",
    title="PyTorch",
    needs=Requirements(),
    capabilities=frozenset({Capability.INT8_WEIGHTS}),
    attention=(
        AttentionKernels(
            name="PyTorch",
            capabilities=frozenset({Capability.SLIDING_WINDOW, Capability.LOGITS_SOFT_CAP, Capability.FP8_KV_CACHE}),
        ),
    ),
    load=_load,
)
