"""C++ kernels that a wheel carries: they serve without a compiler, as long as they are of the sources beside them."""

import shutil
from pathlib import Path

import pytest

from quire.kernels.native import shipped
from quire.kernels.native.compiler import CSRC, NoCompiler, compiled_library
from quire.kernels.native.levels import LEVELS, supported_levels
from quire.kernels.native.shipped import native_library, ship
from support.compilers import write_compiler

pytestmark = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes down its calls in this file and makes empty files, and a copy of the sources for it."""
    shutil.copytree(CSRC, tmp_path / "csrc")
    monkeypatch.setattr("quire.kernels.native.compiler.CSRC", tmp_path / "csrc")
    monkeypatch.setattr(shipped, "LIB", tmp_path / "lib")
    monkeypatch.setenv("CXX", write_compiler(tmp_path, f'echo "$@" >> {tmp_path}/calls'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "calls"


def test_every_level_is_shipped_and_needs_no_compiler(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(shipped.LIB)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert {native_library(level) for level in LEVELS} == {shipped.LIB / f"{level}.so" for level in LEVELS}


def test_libraries_for_others_do_not_depend_on_the_machine_that_makes_them(calls: Path) -> None:
    ship(shipped.LIB)
    assert "native" not in calls.read_text()
    compiled_library("avx2")
    assert "-mtune=native" in calls.read_text()


@pytest.mark.parametrize("changed", ["rms_norm.cpp", "common/simd.h"])
def test_a_library_of_other_sources_is_compiled_again(
    calls: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    ship(shipped.LIB)
    with (calls.parent / "csrc" / changed).open("a") as source:
        source.write("// changed")
    assert native_library("avx2").is_relative_to(calls.parent / "cache")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoCompiler):
        native_library("avx2")


def test_a_level_that_was_not_shipped_is_compiled(calls: Path) -> None:
    ship(shipped.LIB)
    (shipped.LIB / "avx2.so").unlink()
    assert native_library("avx2").is_relative_to(calls.parent / "cache")
