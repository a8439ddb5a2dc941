"""Libraries of C++ kernels that a wheel carries, one for every level of instructions: no compiler is needed then.

`python -m quire.kernels.native.shipped FOLDER` makes them, which is what the build hook runs:

    lib/amx_bf16.so  lib/avx512_bf16.so  lib/avx512.so  lib/avx2.so
    lib/sources.sha256      of what they were compiled from
"""

import sys
from pathlib import Path
from typing import Final

from quire.kernels.native.compiler import compile_for_others, compiled_library, sources_digest
from quire.kernels.native.levels import LEVELS

LIB: Final = Path(__file__).parent / "lib"
_DIGEST: Final = "sources.sha256"


def native_library(level: str) -> Path:
    """The library for a level: the shipped one if it was made from the sources beside it, else one compiled here.

    Raises:
        CompileError: none was shipped, and none can be compiled.
    """
    digest, library = LIB / _DIGEST, LIB / f"{level}.so"
    if library.is_file() and digest.is_file() and digest.read_text() == sources_digest():
        return library
    return compiled_library(level)


def ship(folder: Path) -> None:
    """Compiles the library of every level into a folder, with the digest of their sources.

    Raises:
        CompileError: there is no compiler, or it does not know a level.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for level in LEVELS:
        compile_for_others(level, folder / f"{level}.so")
    (folder / _DIGEST).write_text(sources_digest())


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
