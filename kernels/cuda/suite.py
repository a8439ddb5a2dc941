"""The `KernelSuite` of an NVIDIA GPU; imports FlashInfer and Triton."""

from dataclasses import replace
from functools import partial

from quire.kernels.adapters import adapts_products
from quire.kernels.cuda.activation import activate
from quire.kernels.cuda.adapters import CudaAdaptedLinear
from quire.kernels.cuda.attention import CudaAttention
from quire.kernels.cuda.attention_latent import CudaLatentAttention
from quire.kernels.cuda.experts import CudaExperts
from quire.kernels.cuda.float8_rows import RowRounder
from quire.kernels.cuda.linear import cuda_linear
from quire.kernels.cuda.logprobs import logprobs
from quire.kernels.cuda.penalties import penalize
from quire.kernels.cuda.rms_norm import add_rms_norm, rms_norm
from quire.kernels.cuda.sampling import sample
from quire.kernels.gated_linear import gated
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite


def cuda_suite() -> KernelSuite:
    """Everything that an NVIDIA GPU has kernels for; the rest is the reference."""
    rounder = RowRounder()
    linear = partial(cuda_linear, rounder)
    return replace(
        TORCH_SUITE,
        name="cuda",
        attention=lambda spec: CudaAttention(spec) if spec.value_dim is None else CudaLatentAttention(spec),
        linear=linear,
        gated_linear=gated(linear, partial(activate, rounder)),
        adapted=adapts_products(CudaAdaptedLinear),
        experts=CudaExperts,
        rms_norm=partial(rms_norm, rounder),
        add_rms_norm=partial(add_rms_norm, rounder),
        penalize=penalize,
        sample=sample,
        logprobs=logprobs,
    )
