"""Every backend, and which one computes."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch

from quire.kernels import reference
from quire.kernels.attention import AttentionBackend, AttentionSpec
from quire.kernels.backend import Backend, SuiteOptions
from quire.kernels.cuda import backend as cuda
from quire.kernels.native import backend as native
from quire.kernels.processor import available_cores
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite

logger = logging.getLogger(__name__)

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {backend.name: backend for backend in (native.BACKEND, cuda.BACKEND, reference.BACKEND)}
)
"""By name, in the order in which "auto" tries them."""

AUTO: Final = "auto"
CHOICES: Final = (AUTO, *BACKENDS)
"""Values of the settings `kernels` and `attention`."""


def kernel_suite(name: str, device: torch.device, dtype: torch.dtype, num_threads: int | None) -> KernelSuite:
    """The suite of that name, or with "auto" the fastest that there is for a device and a compute type.

    Args:
        name: one of `CHOICES`.
        num_threads: of a suite that computes on the CPU; None: as many as there are cores.

    Raises:
        ValueError: no such backend, or it cannot be had here; the message says why.
    """
    options = SuiteOptions(device, dtype, num_threads or available_cores())
    if name != AUTO:
        if name not in BACKENDS:
            raise ValueError(f"kernels: must be one of {', '.join(CHOICES)}, got {name!r}")
        return _load(BACKENDS[name], options)
    refusals: list[str] = []
    for backend in BACKENDS.values():
        # Backends for other kinds of devices are passed over without a word in the log.
        if backend.needs.device_type in (None, device.type):
            try:
                suite = _load(backend, options)
            except ValueError as error:
                refusals.append(str(error))
                continue
            if refusals:
                logger.warning("computing with %s, several times slower: %s", backend.title, "; ".join(refusals))
            return suite
    raise ValueError("; ".join(refusals))


def attention_backend(name: str, spec: AttentionSpec, suite: KernelSuite = TORCH_SUITE) -> AttentionBackend:
    """Attention of that name, or with "auto" the suite's where its backend can do what the spec asks.

    Args:
        name: "auto", the suite's own name, or "torch".

    Raises:
        ValueError: no such attention beside this suite, or it cannot do what the spec asks.
    """
    backend = BACKENDS[suite.name]
    allowed = dict.fromkeys((AUTO, backend.name, TORCH_SUITE.name))
    if name not in allowed:
        raise ValueError(f"attention: must be one of {', '.join(allowed)} with kernels {backend.name}, got {name!r}")
    if name == TORCH_SUITE.name:
        return TORCH_SUITE.attention(spec)
    if reason := backend.attention_unsupported_reason(spec):
        if name != AUTO:
            raise ValueError(f"attention: {name!r}: {reason}")
        logger.info("attention in PyTorch: %s", reason)
        return TORCH_SUITE.attention(spec)
    return suite.attention(spec)


def _load(backend: Backend, options: SuiteOptions) -> KernelSuite:
    try:
        if reason := backend.unsupported_reason(options):
            raise ValueError(reason)
        return backend.load(options)
    except ValueError as error:
        raise ValueError(f"kernels: {backend.name!r}: {error}") from error
