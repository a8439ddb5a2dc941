"""The backend of C++ kernels for CPUs."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from quire.kernels.activation import SILU, Activation
from quire.kernels.adapters import Adaptation, AdaptedLinear, adapted
from quire.kernels.backend import Backend, Capability, Requirements, SuiteOptions
from quire.kernels.coded_weight import Weight
from quire.kernels.experts import Experts, ExpertsShape, LinearExperts
from quire.kernels.gated_linear import gated
from quire.kernels.linear import Linear, torch_linear
from quire.kernels.native import attention
from quire.kernels.native.compiler import CompileError, NoCompiler
from quire.kernels.native.decoder_blocks import fuse
from quire.kernels.native.experts import NativeExperts
from quire.kernels.native.levels import BF16_LEVELS, LEVELS, supported_levels
from quire.kernels.native.library import DTYPES, NativeLibrary
from quire.kernels.native.linear import NativeLinear
from quire.kernels.native.logprobs import NativeLogprobs
from quire.kernels.native.pages import zeros
from quire.kernels.native.penalties import NativePenalize
from quire.kernels.native.rms_norm import NativeRmsNorm
from quire.kernels.native.sampling import NativeSample
from quire.kernels.native.shipped import native_library
from quire.kernels.native.take_rows import NativeTakeRows
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite

logger = logging.getLogger(__name__)


def native_suite(library: NativeLibrary) -> KernelSuite:
    """For tensors on the CPU, float32 or bfloat16; what is not written in C++ is the reference."""

    def linear(weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        if weight.shape[1] % 2:
            return torch_linear(weight, bias, out_dtype)
        return NativeLinear.pack(library, weight, bias, out_dtype)

    def gated_linear(
        weight: Weight, bias: Tensor | None, out_dtype: torch.dtype, activation: Activation = SILU
    ) -> Linear:
        if weight.shape[1] % 2:
            return gated(torch_linear)(weight, bias, out_dtype, activation)
        return NativeLinear.pack(library, weight, bias, out_dtype, activation=activation)

    def adapted_linear(linear: Linear, adaptation: Adaptation) -> AdaptedLinear:
        if isinstance(linear, NativeLinear):
            return linear.with_adapters(adaptation.rows)
        return adapted(linear, adaptation)

    def experts(shape: ExpertsShape, activation: Activation) -> Experts:
        if shape.hidden % 2 or shape.size % 2:
            return LinearExperts(shape, activation, linear, gated_linear)
        return NativeExperts(library, shape, activation)

    norm = NativeRmsNorm(library)
    return replace(
        TORCH_SUITE,
        name=BACKEND.name,
        zeros=lambda shape, dtype, device: zeros(shape, dtype),
        attention=lambda spec: attention.NativeAttention(spec, library),
        linear=linear,
        gated_linear=gated_linear,
        adapted=adapted_linear,
        experts=experts,
        take_rows=NativeTakeRows(library),
        penalize=NativePenalize(library),
        sample=NativeSample(library),
        logprobs=NativeLogprobs(library),
        fuse_blocks=partial(fuse, library),
        rms_norm=norm.norm,
        add_rms_norm=norm.add_norm,
    )


def _load(options: SuiteOptions) -> KernelSuite:
    level, library = _library(supported_levels(), options.num_threads)
    # The few operations left to PyTorch are small; its own threads would spin beside those of the library.
    torch.set_num_threads(1)
    logger.info("computing with C++ kernels for %s on %d threads", level, options.num_threads)
    fast = frozenset({torch.bfloat16} if level in BF16_LEVELS else ())
    return replace(native_suite(library), fast_dtypes=fast)


def _library(levels: Sequence[str], num_threads: int) -> tuple[str, NativeLibrary]:
    """Library of the widest usable level: not every compiler knows the newest, nor does every system permit them."""
    try:
        for level in levels[:-1]:
            try:
                return level, NativeLibrary(native_library(level), num_threads)
            except NoCompiler:
                raise
            except (CompileError, OSError) as error:
                logger.warning("no C++ kernels for %s, slower ones are tried: %s", level, error)
        return levels[-1], NativeLibrary(native_library(levels[-1]), num_threads)
    except (CompileError, OSError) as error:
        raise ValueError(str(error)) from error


BACKEND: Final = Backend(
    name="native",
    title="C++ kernels",
    needs=Requirements(device_type="cpu", dtypes=DTYPES, instruction_sets=LEVELS["avx2"].needs),
    capabilities=frozenset({Capability.INT8_WEIGHTS, Capability.INT4_WEIGHTS, Capability.FUSED_DECODER_BLOCKS}),
    attention=(attention.KERNELS,),
    load=_load,
)
