"""Compiles the C++ kernels for a level of instructions and keeps the result in the user's cache."""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Final

from quire.kernels.processor import instruction_sets

CSRC: Final = Path(__file__).parent.parent / "csrc"
_COMMON_FLAGS: Final = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-mtune=native")

_AVX512: Final = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_AVX512_FLAGS: Final = ("-march=x86-64-v4", "-mprefer-vector-width=512")
_AVX512_BF16_FLAGS: Final = (*_AVX512_FLAGS, "-mavx512bf16")
# From the widest down: flags that /proc/cpuinfo must list, and options for the compiler.
LEVELS: Final[Mapping[str, tuple[frozenset[str], tuple[str, ...]]]] = MappingProxyType(
    {
        "amx_bf16": (
            _AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"},
            (*_AVX512_BF16_FLAGS, "-mamx-tile", "-mamx-bf16"),
        ),
        "avx512_bf16": (_AVX512 | {"avx512_bf16"}, _AVX512_BF16_FLAGS),
        "avx512": (_AVX512, _AVX512_FLAGS),
        "avx2": (frozenset({"avx2", "fma", "f16c", "bmi2"}), ("-march=x86-64-v3",)),
    }
)

BF16_LEVELS: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""The levels that multiply bfloat16; others convert it to float32 first."""


class CompileError(Exception):
    """There is no compiler, or it failed; the message says which and how."""


def supported_levels(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The levels that this processor can run, widest first; none where it cannot be known."""
    there = instruction_sets(cpuinfo)
    return tuple(level for level, (needed, _) in LEVELS.items() if needed <= there)


def compiled_library(level: str, cache: Path | None = None) -> Path:
    """The library for a level, compiled unless `cache` has it; processes that ask at once compile it once.

    Args:
        level: a key of `LEVELS`.
        cache: a folder; None: `quire/native` in the user's cache.

    Raises:
        CompileError: it cannot be made.
    """
    compiler = find_compiler()
    sources = sorted(CSRC.rglob("*.cpp"))
    flags = (*_COMMON_FLAGS, *LEVELS[level][1])
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quire" / "native"
    library = folder / f"{level}-{_digest(compiler, sources, flags)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{level}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.is_file():
                _compile(compiler, flags, sources, library)
    except OSError as error:
        raise CompileError(f"cannot keep compiled kernels in {folder}: {error}") from error
    return library


def find_compiler() -> tuple[str, ...]:
    """The command: CXX may hold arguments, or a wrapper in front of the compiler, as make has it.

    Raises:
        CompileError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["g++"], ["clang++"], ["c++"]]
    for name, *arguments in candidates:
        if path := shutil.which(name):
            return path, *arguments
    names = ", ".join(name for name, *_ in candidates)
    raise CompileError(f"no C++ compiler: none of {names} is on the path")


def _digest(compiler: tuple[str, ...], sources: list[Path], flags: tuple[str, ...]) -> str:
    """Over all that the library depends on: the compiler, its flags, sources and headers."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.sha256("\n".join((*compiler, version, *flags)).encode())
    for path in [*sources, *sorted(CSRC.rglob("*.h"))]:
        digest.update(str(path.relative_to(CSRC)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], sources: list[Path], library: Path) -> None:
    """Compiles to a file beside `library` first: an interrupted compilation leaves no library that looks complete."""
    with (
        tempfile.TemporaryDirectory(dir=library.parent) as folder,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        objects = [str(Path(folder) / f"{index}.o") for index in range(len(sources))]
        unfinished = Path(folder) / library.name
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)
        ]
        # Whatever failed is raised here.
        list(pool.map(_run, commands))
        _run([*compiler, *flags, "-shared", *objects, "-o", str(unfinished)])
        unfinished.replace(library)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise CompileError(f"{command[0]} failed with status {done.returncode}: {last}")
