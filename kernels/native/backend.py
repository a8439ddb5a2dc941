"""The backend of C++ kernels for CPUs."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from quire.kernels.backend import Backend, Capability, Requirements, SuiteOptions
from quire.kernels.gated_linear import gated
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.linear import Linear, LinearMaker, TorchLinear
from quire.kernels.native import attention
from quire.kernels.native.compiler import CompileError, NoCompiler
from quire.kernels.native.decoder_blocks import fuse
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


def native_suite(library: NativeLibrary, int8: bool = False) -> KernelSuite:
    """For tensors on the CPU, float32 or bfloat16; what is not written in C++ is the reference.

    Args:
        int8: whether linear layers keep their weights in 8-bit integers.
    """

    def linear(weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype, is_gated: bool) -> Linear:
        if weight.shape[1] % 2 == 0:
            return NativeLinear.pack(library, weight, bias, out_dtype, int8=int8, is_gated=is_gated)
        maker: LinearMaker = Int8Linear.pack if int8 else TorchLinear
        return (gated(maker) if is_gated else maker)(weight, bias, out_dtype)

    norm = NativeRmsNorm(library)
    return replace(
        TORCH_SUITE,
        name=BACKEND.name,
        zeros=lambda shape, dtype, device: zeros(shape, dtype),
        attention=lambda spec: attention.NativeAttention(spec, library),
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


def _load(options: SuiteOptions) -> KernelSuite:
    level, library = _library(supported_levels(), options.num_threads)
    # The few operations left to PyTorch are small; its own threads would spin beside those of the library.
    torch.set_num_threads(1)
    logger.info("computing with C++ kernels for %s on %d threads", level, options.num_threads)
    fast = frozenset({torch.bfloat16} if level in BF16_LEVELS else ())
    return replace(native_suite(library, options.int8), fast_dtypes=fast)


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
    capabilities=frozenset({Capability.INT8_WEIGHTS, Capability.FUSED_DECODER_BLOCKS}),
    attention=(attention.KERNELS,),
    load=_load,
)
