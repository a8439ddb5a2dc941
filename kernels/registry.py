"""Which `KernelSuite` computes on a device, and attention backends by name."""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch

from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.gated_linear import gated
from quire.kernels.int8_linear import Int8Linear
from quire.kernels.native.compiler import CompileError, compiled_library, find_compiler, supported_levels
from quire.kernels.native.library import DTYPES, NativeLibrary, available_cores
from quire.kernels.native.suite import native_suite
from quire.kernels.suite import TORCH_SUITE, KernelSuite

logger = logging.getLogger(__name__)

KERNEL_SUITES: Final = ("auto", "native", "cuda", "torch")
ATTENTION_BACKENDS: Final[Mapping[str, Callable[[AttentionSpec], AttentionBackend]]] = MappingProxyType(
    {"torch": TorchAttention}
)


def kernel_suite(
    name: str, device: torch.device, dtype: torch.dtype, num_threads: int | None, int8: bool = False
) -> KernelSuite:
    """The suite of that name, or with "auto" the fastest that there is for a device and a compute type.

    Args:
        name: one of `KERNEL_SUITES`.
        num_threads: of a suite that computes on the CPU; None: as many as there are cores.
        int8: whether linear layers keep their weights in 8-bit integers.

    Raises:
        ValueError: no such suite, or "native" cannot be had here; the message says why.
    """
    if name not in KERNEL_SUITES:
        raise ValueError(f"kernels: must be one of {', '.join(KERNEL_SUITES)}, got {name!r}")
    threads = num_threads or available_cores()
    if name != "torch":
        try:
            if name == "cuda" or (name == "auto" and device.type == "cuda"):
                return _cuda(device, int8)
            return _native(device, dtype, threads, int8)
        except ValueError as error:
            if name != "auto":
                raise
            logger.warning("computing with PyTorch, several times slower: %s", error)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    if int8:
        return replace(TORCH_SUITE, linear=Int8Linear.pack, gated_linear=gated(Int8Linear.pack))
    return TORCH_SUITE


def _cuda(device: torch.device, int8: bool) -> KernelSuite:
    if device.type != "cuda":
        raise ValueError(f"kernels: 'cuda' needs an NVIDIA GPU, got {device}")
    try:
        # Not at the top: FlashInfer and Triton come with the extra `gpu` only.
        module = importlib.import_module("quire.kernels.cuda.suite")
    except ImportError as error:
        raise ValueError(f"kernels: 'cuda': {error}; install the extra 'gpu'") from error
    suite: KernelSuite = module.cuda_suite(int8)
    return suite


def _native(device: torch.device, dtype: torch.dtype, num_threads: int, int8: bool) -> KernelSuite:
    levels = supported_levels()
    if device.type != "cpu" or dtype not in DTYPES:
        raise ValueError(f"kernels: 'native' needs the CPU and float32 or bfloat16, got {device} and {dtype}")
    if not levels:
        raise ValueError("kernels: 'native' needs an x86-64 processor with AVX2 under Linux")
    level, library = _library(levels, num_threads)
    # The few operations left to PyTorch are small; its own threads would spin beside those of the library.
    torch.set_num_threads(1)
    logger.info("computing with C++ kernels for %s on %d threads", level, num_threads)
    return native_suite(library, int8)


def _library(levels: Sequence[str], num_threads: int) -> tuple[str, NativeLibrary]:
    """Of the widest level that can be had: not every compiler knows the newest, nor does every system permit them."""
    try:
        find_compiler()
        for level in levels[:-1]:
            try:
                return level, NativeLibrary(compiled_library(level), num_threads)
            except (CompileError, OSError) as error:
                logger.warning("no C++ kernels for %s, slower ones are tried: %s", level, error)
        return levels[-1], NativeLibrary(compiled_library(levels[-1]), num_threads)
    except (CompileError, OSError) as error:
        raise ValueError(f"kernels: 'native': {error}") from error


def attention_backend(
    name: str, spec: AttentionSpec, auto: Callable[[AttentionSpec], AttentionBackend] = TorchAttention
) -> AttentionBackend:
    """The backend of that name, or with "auto" what the suite of kernels in use prefers for the spec.

    Raises:
        ValueError: no such backend; the message lists those there are.
    """
    if name == "auto":
        return auto(spec)
    if name not in ATTENTION_BACKENDS:
        allowed = ", ".join(["auto", *ATTENTION_BACKENDS])
        raise ValueError(f"attention: must be one of {allowed}, got {name!r}")
    return ATTENTION_BACKENDS[name](spec)
