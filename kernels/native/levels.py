"""Levels of x86-64 instructions that the C++ kernels are compiled for, and which of them a processor runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from quire.kernels.processor import instruction_sets


@dataclass(frozen=True, slots=True)
class Level:
    """
    Attributes:
        needs: flags that /proc/cpuinfo must list.
        flags: options for the compiler.
        tune: the processor whose timing the compiler assumes where the library is for others' machines.
    """

    needs: frozenset[str]
    flags: tuple[str, ...]
    tune: str


_AVX512: Final = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_AVX512_FLAGS: Final = ("-march=x86-64-v4", "-mprefer-vector-width=512")
_AVX512_BF16_FLAGS: Final = (*_AVX512_FLAGS, "-mavx512bf16")

LEVELS: Final[Mapping[str, Level]] = MappingProxyType(
    {
        "amx_bf16": Level(
            _AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"},
            (*_AVX512_BF16_FLAGS, "-mamx-tile", "-mamx-bf16"),
            "sapphirerapids",
        ),
        "avx512_bf16": Level(_AVX512 | {"avx512_bf16"}, _AVX512_BF16_FLAGS, "icelake-server"),
        "avx512": Level(_AVX512, _AVX512_FLAGS, "icelake-server"),
        "avx2": Level(frozenset({"avx2", "fma", "f16c", "bmi2"}), ("-march=x86-64-v3",), "generic"),
    }
)
"""From the widest down."""

BF16_LEVELS: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""The levels that multiply bfloat16; others convert it to float32 first."""


def supported_levels(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The levels that this processor can run, widest first; none where it cannot be known."""
    there = instruction_sets(cpuinfo)
    return tuple(name for name, level in LEVELS.items() if level.needs <= there)
