"""The `KernelSuite` of an NVIDIA GPU."""

import logging
from dataclasses import replace

from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.cuda.flashinfer import FlashInferAttention, unsuited
from quire.kernels.cuda.gated_linear import gated
from quire.kernels.cuda.linear import CudaLinear
from quire.kernels.cuda.logprobs import logprobs
from quire.kernels.cuda.penalties import penalize
from quire.kernels.cuda.rms_norm import add_rms_norm, rms_norm
from quire.kernels.cuda.sampling import sample
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.linear import LinearMaker
from quire.kernels.suite import TORCH_SUITE, KernelSuite

logger = logging.getLogger(__name__)


def cuda_suite(int8: bool = False) -> KernelSuite:
    """
    Args:
        int8: whether linear layers keep their weights in 8-bit integers.
    """
    linear: LinearMaker = Int8Linear.pack if int8 else CudaLinear
    return replace(
        TORCH_SUITE,
        name="cuda",
        attention=_attention,
        linear=linear,
        gated_linear=gated(linear),
        rms_norm=rms_norm,
        add_rms_norm=add_rms_norm,
        penalize=penalize,
        sample=sample,
        logprobs=logprobs,
    )


def _attention(spec: AttentionSpec) -> AttentionBackend:
    if reason := unsuited(spec):
        logger.info("attention in PyTorch: FlashInfer's %s", reason)
        return TorchAttention(spec)
    return FlashInferAttention(spec)
