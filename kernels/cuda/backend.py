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
            Capability.SINKS,
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
    capabilities=frozenset(
        {
            Capability.SLIDING_WINDOW,
            Capability.LOGITS_SOFT_CAP,
            Capability.SINKS,
            Capability.SHARED_PREFIX,
            Capability.FP8_KV_CACHE,
            Capability.CUDA_GRAPHS,
        }
    ),
    device_type="cuda",
    dtypes=_DTYPES,
    head_dims=range(1, 257),
)

FLASHINFER_MLA: Final = AttentionKernels(
    name="FlashInfer MLA",
    capabilities=frozenset({Capability.LATENT, Capability.CUDA_GRAPHS}),
    device_type="cuda",
    dtypes=_DTYPES,
    head_dims=(576,),
    value_dims=(512,),
    required=frozenset({Capability.LATENT}),
)


def _load(options: SuiteOptions) -> KernelSuite:
    try:
        # Not at the top: FlashInfer and Triton come with the extra `gpu` only.
        module = importlib.import_module("quire.kernels.cuda.suite")
    except ImportError as error:
        raise ValueError(f"{error}; install the extra 'gpu'") from error
    suite: KernelSuite = module.cuda_suite()
    return suite


BACKEND: Final = Backend(
    name="cuda",
    title="FlashInfer and Triton",
    needs=Requirements(device_type="cuda", compute_capability=(7, 5), packages=("flashinfer", "triton"), extra="gpu"),
    capabilities=frozenset({Capability.FP8_WEIGHTS, Capability.INT8_WEIGHTS, Capability.INT4_WEIGHTS}),
    attention=(FLASHINFER, TRITON, FLASHINFER_MLA),
    load=_load,
)
