"""The `KernelSuite` of an NVIDIA GPU; imports FlashInfer and Triton."""

from dataclasses import replace

from quire.kernels.cuda.attention import CudaAttention
from quire.kernels.cuda.gated_linear import gated
from quire.kernels.cuda.linear import CudaLinear
from quire.kernels.cuda.logprobs import logprobs
from quire.kernels.cuda.penalties import penalize
from quire.kernels.cuda.rms_norm import add_rms_norm, rms_norm
from quire.kernels.cuda.sampling import sample
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.linear import LinearMaker
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite


def cuda_suite(int8: bool = False) -> KernelSuite:
    """
    Args:
        int8: whether linear layers keep their weights in 8-bit integers.
    """
    linear: LinearMaker = Int8Linear.pack if int8 else CudaLinear
    return replace(
        TORCH_SUITE,
        name="cuda",
        attention=CudaAttention,
        linear=linear,
        gated_linear=gated(linear),
        rms_norm=rms_norm,
        add_rms_norm=add_rms_norm,
        penalize=penalize,
        sample=sample,
        logprobs=logprobs,
    )
