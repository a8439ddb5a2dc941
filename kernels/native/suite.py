"""The `KernelSuite` of C++ kernels for CPUs."""

import logging
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.gated_linear import gated
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.linear import Linear, LinearMaker, TorchLinear
from quire.kernels.native.attention import NativeAttention, unsuited
from quire.kernels.native.decoder_blocks import fuse
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.linear import NativeLinear
from quire.kernels.native.logprobs import NativeLogprobs
from quire.kernels.native.pages import zeros
from quire.kernels.native.penalties import NativePenalize
from quire.kernels.native.rms_norm import NativeRmsNorm
from quire.kernels.native.sampling import NativeSample
from quire.kernels.native.take_rows import NativeTakeRows
from quire.kernels.suite import TORCH_SUITE, KernelSuite

logger = logging.getLogger(__name__)


def native_suite(library: NativeLibrary, int8: bool = False) -> KernelSuite:
    """For tensors on the CPU, float32 or bfloat16; what is not written in C++ is the reference.

    Args:
        int8: whether linear layers keep their weights in 8-bit integers.
    """

    def attention(spec: AttentionSpec) -> AttentionBackend:
        if reason := unsuited(spec):
            logger.info("attention in PyTorch: the C++ kernels' %s", reason)
            return TorchAttention(spec)
        return NativeAttention(spec, library)

    def linear(weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype, is_gated: bool) -> Linear:
        if weight.shape[1] % 2 == 0:
            return NativeLinear.pack(library, weight, bias, out_dtype, int8=int8, is_gated=is_gated)
        maker: LinearMaker = Int8Linear.pack if int8 else TorchLinear
        return (gated(maker) if is_gated else maker)(weight, bias, out_dtype)

    norm = NativeRmsNorm(library)
    return replace(
        TORCH_SUITE,
        name="native",
        zeros=lambda shape, dtype, device: zeros(shape, dtype),
        attention=attention,
        linear=partial(linear, is_gated=False),
        gated_linear=partial(linear, is_gated=True),
        take_rows=NativeTakeRows(library),
        penalize=NativePenalize(library),
        sample=NativeSample(library),
        logprobs=NativeLogprobs(library),
        fuse_blocks=partial(fuse, library),
        rms_norm=norm.norm,
        add_rms_norm=norm.add_norm,
    )
