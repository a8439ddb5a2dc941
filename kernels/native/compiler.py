"""Compiles the C++ kernels for a level of instructions: for this machine into the user's cache, or for any machine."""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from quire.kernels.native.levels import LEVELS

CSRC: Final = Path(__file__).parent.parent / "csrc"
_COMMON_FLAGS: Final = ("-std=c++20", "-O3", "-fPIC", "-pthread")


class CompileError(Exception):
    """There is no compiler, or it failed; the message says which and how."""


class NoCompiler(CompileError):
    """There is none for any level."""


def compiled_library(level: str, cache: Path | None = None) -> Path:
    """The library for a level, compiled unless `cache` has it; processes that ask at once compile it once.

    Args:
        level: a key of `LEVELS`.
        cache: a folder; None: `quire/native` in the user's cache.

    Raises:
        CompileError: it cannot be made.
    """
    compiler = find_compiler()
    flags = (*_COMMON_FLAGS, "-mtune=native", *LEVELS[level].flags)
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quire" / "native"
    library = folder / f"{level}-{_digest(compiler, flags)}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One lock for each library: another version's is compiled at the same time.
        with library.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.is_file():
                _compile(compiler, flags, library)
    except OSError as error:
        raise CompileError(f"cannot keep compiled kernels in {folder}: {error}") from error
    return library


def compile_for_others(level: str, library: Path) -> None:
    """Compiles a level for any processor that runs it.

    Raises:
        CompileError: it cannot be made.
    """
    chosen = LEVELS[level]
    # Without symbols for debuggers and linkers, which double the size.
    _compile(find_compiler(), (*_COMMON_FLAGS, f"-mtune={chosen.tune}", *chosen.flags, "-s"), library)


def find_compiler() -> tuple[str, ...]:
    """The command: CXX may hold arguments, or a wrapper in front of the compiler, as make has it.

    Raises:
        NoCompiler: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["g++"], ["clang++"], ["c++"]]
    for name, *arguments in candidates:
        if path := shutil.which(name):
            return path, *arguments
    names = ", ".join(name for name, *_ in candidates)
    raise NoCompiler(f"no C++ compiler: none of {names} is on the path")


def sources_digest() -> str:
    """Over sources and headers, names and contents."""
    digest = hashlib.sha256()
    for path in [*_sources(), *sorted(CSRC.rglob("*.h"))]:
        digest.update(str(path.relative_to(CSRC)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> list[Path]:
    return sorted(CSRC.rglob("*.cpp"))


def _digest(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str:
    """Over all that the library depends on: the compiler, its flags, sources and headers."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return hashlib.sha256("\n".join((*compiler, version, *flags, sources_digest())).encode()).hexdigest()[:24]


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], library: Path) -> None:
    """Compiles to a file beside `library` first: an interrupted compilation leaves no library that looks complete."""
    sources = _sources()
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
