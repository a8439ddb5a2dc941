"""What a backend of kernels declares: its name, what it needs, and what it can do.

Selection, refusals, settings, tests and the table in docs/kernels.md all read these declarations. This module knows no
backend; `quire.kernels.registry` lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

import torch

from quire.kernels.attention import AttentionSpec
from quire.kernels.processor import instruction_sets
from quire.kernels.suite import KernelSuite


class Capability(StrEnum):
    """Abilities that some backends have and others lack; the value is what messages and documents call it."""

    SLIDING_WINDOW = "sliding windows"
    LOGITS_SOFT_CAP = "soft caps of scores"
    SINKS = "attention sinks"
    LATENT = "latent attention"
    FP8_KV_CACHE = "an fp8 KV cache"
    SHARED_PREFIX = "shared prefixes computed once"
    CUDA_GRAPHS = "CUDA graphs"
    INT8_WEIGHTS = "products that read int8 weights"
    INT4_WEIGHTS = "products that read int4 weights"
    FP8_WEIGHTS = "products that read fp8 weights"
    FUSED_DECODER_BLOCKS = "fused decoder blocks"


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What a `KernelSuite` is made for.

    Attributes:
        dtype: of activations.
        num_threads: of a suite that computes on the CPU.
    """

    device: torch.device
    dtype: torch.dtype
    num_threads: int


@dataclass(frozen=True, slots=True)
class Requirements:
    """Needs of a backend; a field left out requires nothing.

    Attributes:
        device_type: as `torch.device.type` names it.
        dtypes: of activations, one of them.
        compute_capability: the least, of an NVIDIA GPU.
        instruction_sets: all of them, as /proc/cpuinfo names them.
        packages: all of them, as they are imported; `extra` of Quire installs them.
    """

    device_type: str | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    compute_capability: tuple[int, int] | None = None
    instruction_sets: frozenset[str] = frozenset()
    packages: tuple[str, ...] = ()
    extra: str = ""

    def unsupported_reason(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Which requirement is not met, or None."""
        if self.device_type not in (None, device.type):
            return f"needs a device of type {self.device_type}, got {device}"
        if self.dtypes and dtype not in self.dtypes:
            return f"needs {_one_of(self.dtypes)}, got {dtype}"
        if missing_packages := [name for name in self.packages if find_spec(name) is None]:
            return f"needs {' and '.join(missing_packages)}: install the extra {self.extra!r}"
        if self.compute_capability is not None:
            if not torch.cuda.is_available():
                return "needs an NVIDIA GPU that PyTorch can use"
            found = torch.cuda.get_device_capability(device)
            if found < self.compute_capability:
                return f"needs compute capability {_version(self.compute_capability)}, got {_version(found)}"
        if missing := self.instruction_sets - instruction_sets():
            return f"needs an x86-64 processor under Linux with {', '.join(sorted(missing))}"
        return None


@dataclass(frozen=True, slots=True)
class AttentionKernels:
    """Which specs one set of attention kernels computes.

    Attributes:
        name: what messages call it.
        device_type, dtypes: of queries; left out: any.
        head_dims: sizes of a head; None: any.
        value_dims: sizes of a value of latent attention; None: any.
        required: what every spec must ask for.
        block_size_step: every block size is a multiple of it.
    """

    name: str
    capabilities: frozenset[Capability]
    device_type: str | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    head_dims: range | tuple[int, ...] | None = None
    value_dims: range | tuple[int, ...] | None = None
    required: frozenset[Capability] = frozenset()
    block_size_step: int = 1

    def unsupported_reason(self, spec: AttentionSpec) -> str | None:
        """What these kernels cannot do of a spec, or None."""
        needs = Requirements(self.device_type, self.dtypes)
        if reason := needs.unsupported_reason(spec.device, spec.dtype):
            return reason
        asked = _asked(spec)
        if missing := self.required - asked.keys():
            return f"computes {', '.join(sorted(missing))} only"
        for capability, value in asked.items():
            if capability not in self.capabilities:
                return f"lacks {capability}, got {value}"
        if spec.kv_dtype not in (None, spec.dtype, torch.float8_e4m3fn):
            return f"needs a cache of the compute type, {spec.dtype}, got {spec.kv_dtype}"
        if spec.block_size % self.block_size_step:
            return f"needs a block size that {self.block_size_step} divides, got {spec.block_size}"
        if self.head_dims is not None and spec.head_dim not in self.head_dims:
            return f"needs heads of {sizes_in_words(self.head_dims)}, got {spec.head_dim}"
        values = spec.value_dim
        if values is not None and self.value_dims is not None and values not in self.value_dims:
            return f"needs latent values of {sizes_in_words(self.value_dims)}, got {values}"
        return None


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of the operations.

    Attributes:
        name: as settings call it.
        title: what computes, for the log and the documents.
        capabilities: of all but attention.
        attention: sets of attention kernels; a spec is computed if one of them computes it.
        load: makes the suite; raises ValueError with the reason where what is needed turns out not to be there.
    """

    name: str
    title: str
    needs: Requirements
    capabilities: frozenset[Capability]
    attention: tuple[AttentionKernels, ...]
    load: Callable[[SuiteOptions], KernelSuite]

    def unsupported_reason(self, options: SuiteOptions) -> str | None:
        """Why no suite can be made, as far as that is known without trying, or None."""
        return self.needs.unsupported_reason(options.device, options.dtype)

    def attention_unsupported_reason(self, spec: AttentionSpec) -> str | None:
        """Why none of its attention kernels computes a spec, or None."""
        reasons = [(kernels.name, kernels.unsupported_reason(spec)) for kernels in self.attention]
        if any(reason is None for _, reason in reasons):
            return None
        return "; ".join(f"{name} {reason}" for name, reason in reasons)


def _asked(spec: AttentionSpec) -> dict[Capability, object]:
    """The capabilities that a spec asks for, each with the value that asks for it."""
    asked = {
        Capability.SLIDING_WINDOW: spec.sliding_window,
        Capability.LOGITS_SOFT_CAP: spec.logits_soft_cap,
        Capability.SINKS: spec.has_sinks or None,
        Capability.LATENT: spec.value_dim,
        Capability.FP8_KV_CACHE: spec.kv_dtype if spec.kv_dtype == torch.float8_e4m3fn else None,
    }
    return {capability: value for capability, value in asked.items() if value is not None}


def _one_of(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(map(str, dtypes))


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def sizes_in_words(sizes: range | tuple[int, ...]) -> str:
    """
    >>> sizes_in_words(range(32, 65, 16))
    '32 to 64 in steps of 16'
    """
    if isinstance(sizes, range):
        steps = "" if sizes.step == 1 else f" in steps of {sizes.step}"
        return f"{sizes[0]} to {sizes[-1]}{steps}"
    return ", ".join(map(str, sizes))
