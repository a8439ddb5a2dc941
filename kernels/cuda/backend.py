"""The backend of FlashInfer and Triton, as it is declared; nothing here imports either."""

import importlib
from typing import Final

import torch

from quire.kernels.backend import AttentionKernels, Backend, Capability, Requirements, SuiteOptions
from quire.kernels.suite import KernelSuite

FLASHINFER_HEAD_DIMS: Final = (64, 128, 256)
_DTYPES: Final = (torch.float16, torch.bfloat16)

FLASHINFER: Final = AttentionKernels(
    name="FlashInfer",
    capabilities=frozenset(
        {
            Capability.SLIDING_WINDOW,
            Capability.LOGITS_SOFT_CAP,
            Capability.FP8_KV_CACHE,
            Capability.CUDA_GRAPHS,
        }
    ),
    device_type="cuda",
    dtypes=_DTYPES,
    head_dims=FLASHINFER_HEAD_DIMS,
)

TRITON: Final = AttentionKernels(
    name="Triton",
    capabilities=frozenset({Capability.SHARED_PREFIX, Capability.CUDA_GRAPHS}),
    device_type="cuda",
    dtypes=_DTYPES,
    head_dims=range(1, 257),
)


def _load(options: SuiteOptions) -> KernelSuite:
    try:
        # Not at the top: FlashInfer and Triton come with the extra `gpu` only.
        module = importlib.import_module("quire.kernels.cuda.suite")
    except ImportError as error:
        raise ValueError(f"{error}; install the extra 'gpu'") from error
    suite: KernelSuite = module.cuda_suite(options.int8)
    return suite


BACKEND: Final = Backend(
    name="cuda",
    title="FlashInfer and Triton",
    needs=Requirements(device_type="cuda", compute_capability=(7, 5), packages=("flashinfer", "triton"), extra="gpu"),
    capabilities=frozenset({Capability.INT8_WEIGHTS}),
    attention=(FLASHINFER, TRITON),
    load=_load,
)
