"""The backend of references in PyTorch: any device, any dtype."""

from dataclasses import replace
from typing import Final

import torch

from quire.kernels.backend import AttentionKernels, Backend, Capability, Requirements, SuiteOptions
from quire.kernels.gated_linear import gated
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.suite import TORCH_SUITE, KernelSuite


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
