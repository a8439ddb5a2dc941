"""The C++ kernels, at every level of instructions that this processor has, against the references in float32."""

import fcntl
import os
import shlex
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quire.kernels.activation import GELU_TANH, SILU, Activation, activate, clamped_swiglu
from quire.kernels.coded_linear import CodedLinear
from quire.kernels.coded_weight import CodedWeight
from quire.kernels.coded_weight import int4 as coded_int4
from quire.kernels.coded_weight import int8 as coded_int8
from quire.kernels.linear import TorchLinear
from quire.kernels.native import backend as native_backend
from quire.kernels.native.backend import native_suite
from quire.kernels.native.compiler import CSRC, CompileError, compiled_library, find_compiler
from quire.kernels.native.levels import LEVELS, supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.linear import NativeLinear
from quire.kernels.native.rms_norm import NativeRmsNorm
from quire.kernels.native.take_rows import NativeTakeRows
from quire.kernels.registry import kernel_suite
from quire.kernels.rms_norm import add_rms_norm, rms_norm
from support.compilers import write_compiler

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
activations = pytest.mark.parametrize(
    "activation", [SILU, GELU_TANH, clamped_swiglu(1.7, 2.0)], ids=lambda a: a.gate.name
)

pytestmark = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")


@pytest.fixture(scope="module", params=supported_levels())
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize(
    ("columns", "depth"), [(1, 2), (31, 64), (32, 576), (97, 96), (97, 100), (960, 578), (70, 1_248)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_linear(library: NativeLibrary, dtype: torch.dtype, columns: int, depth: int, biased: bool) -> None:
    weight = (torch.randn(columns, depth) / depth**0.5).to(dtype)
    bias = torch.randn(columns).to(dtype) if biased else None
    linear = NativeLinear.pack(library, weight, bias, dtype)
    wide = NativeLinear.pack(library, weight, bias, torch.float32)
    for num_tokens in (0, 1, 2, 11, 12, 13, 16, 17, 31, 32, 33, 49, 100, 700):
        x = torch.randn(num_tokens, depth + 9).to(dtype)[:, :depth]  # rows may lie apart
        wanted = torch.nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
        close(linear(x), wanted, dtype)
        # Sums are float32 inside, whatever goes in.
        close(wide(x), wanted, torch.float32)


@dtypes
@pytest.mark.parametrize("depth", [96, 1_248])
def test_a_row_of_a_product_does_not_depend_on_the_others(
    library: NativeLibrary, dtype: torch.dtype, depth: int
) -> None:
    linear = NativeLinear.pack(library, (torch.randn(200, depth) / depth**0.5).to(dtype), None, dtype)
    x = torch.randn(530, depth).to(dtype)
    together = linear(x)
    for count in (1, 3, 12, 16, 17, 33, 64, 529):
        assert torch.equal(linear(x[:count].contiguous()), together[:count])


@dtypes
@pytest.mark.parametrize(("columns", "depth"), [(1, 2), (97, 96), (97, 100), (960, 578), (70, 1_248)])
@pytest.mark.parametrize("biased", [False, True])
def test_int8_weights(library: NativeLibrary, dtype: torch.dtype, columns: int, depth: int, biased: bool) -> None:
    weight = (torch.randn(columns, depth) / depth**0.5).to(dtype)
    bias = torch.randn(columns).to(dtype) if biased else None
    native = NativeLinear.pack(library, coded_int8(weight), bias, torch.float32)
    reference = CodedLinear(coded_int8(weight), bias, torch.float32)
    x = torch.randn(530, depth).to(dtype)
    together = native(x)
    close(together, reference(x), torch.float32)
    # Narrow steps widen the weights on the fly, wide ones beforehand: with the same result.
    for count in (0, 1, 3, 12, 13, 17, 33, 64):
        assert torch.equal(native(x[:count].contiguous()), together[:count])
    assert native.tensors[0].element_size() == 1


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 40),
    columns=st.integers(1, 150),
    pairs=st.integers(1, 90),
    wide=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_linear_of_any_shape(
    library: NativeLibrary, tokens: int, columns: int, pairs: int, wide: bool, seed: int
) -> None:
    dtype = torch.float32 if wide else torch.bfloat16
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 2 * pairs, generator=generator).to(dtype)
    weight = torch.randn(columns, 2 * pairs, generator=generator).to(dtype) / (2 * pairs) ** 0.5
    found = NativeLinear.pack(library, weight, None, dtype)(x)
    close(found, x.float() @ weight.float().T, dtype)


@dtypes
@pytest.mark.parametrize("size", [1, 15, 16, 64, 576, 1000])
def test_rms_norm(library: NativeLibrary, dtype: torch.dtype, size: int) -> None:
    norm = NativeRmsNorm(library)
    for num_tokens in (1, 7, 700):
        x, residual, weight = torch.randn(num_tokens, size), torch.randn(num_tokens, size), torch.randn(size)
        x, residual, weight = x.to(dtype), residual.to(dtype), weight.to(dtype)
        close(norm.norm(x, weight, 1e-5), rms_norm(x.float(), weight.float(), 1e-5), dtype)
        normed, total = norm.add_norm(x, residual, weight, 1e-5)
        assert torch.equal(total, x + residual)
        close(normed, add_rms_norm(x.float(), residual.float(), weight.float(), 1e-5)[0], dtype)


@dtypes
def test_rms_norm_of_heads_inside_a_merged_projection(library: NativeLibrary, dtype: torch.dtype) -> None:
    merged, weight = torch.randn(9, 7, 32).to(dtype), torch.randn(32).to(dtype)
    heads = merged[:, 2:5]
    close(NativeRmsNorm(library).norm(heads, weight, 1e-6), rms_norm(heads.float(), weight.float(), 1e-6), dtype)


@dtypes
@pytest.mark.parametrize("size", [1, 8, 16, 23, 250])
@pytest.mark.parametrize("int8", [False, True])
@activations
def test_gated_linear(
    library: NativeLibrary, dtype: torch.dtype, size: int, int8: bool, activation: Activation
) -> None:
    weight, bias = (torch.randn(2 * size, 64) / 4).to(dtype), torch.randn(2 * size).to(dtype)
    native = NativeLinear.pack(library, coded_int8(weight) if int8 else weight, bias, dtype, activation=activation)
    exact = CodedLinear(coded_int8(weight), bias, torch.float32) if int8 else TorchLinear(
        weight.float(), bias.float(), torch.float32
    )  # fmt: skip
    for num_tokens in (0, 1, 13, 300):
        x = torch.randn(num_tokens, 64).to(dtype)
        close(native(x), activate(exact(x.float()), activation), dtype)


@dtypes
@activations
def test_the_gate_at_its_extremes(library: NativeLibrary, dtype: torch.dtype, activation: Activation) -> None:
    values = [-1e4, 1e4, -88.0, 0.0, 1e-3]
    weight = torch.tensor([[value, 0.0] for value in values] + [[0.0, 1.0]] * len(values)).to(dtype)
    found = NativeLinear.pack(library, weight, None, dtype, activation=activation)(torch.ones(1, 2, dtype=dtype))
    close(found, activate(weight.float().sum(dim=1, keepdim=True).T, activation), dtype)


@dtypes
def test_take_rows(library: NativeLibrary, dtype: torch.dtype) -> None:
    matrix, rows = torch.randn(50, 33).to(dtype), torch.randint(50, (2000,))
    assert torch.equal(NativeTakeRows(library)(matrix, rows), matrix[rows])
    assert NativeTakeRows(library)(matrix, rows[:0]).shape == (0, 33)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_products_are_the_same_on_any_number_of_threads(num_threads: int) -> None:
    path = compiled_library(supported_levels()[0])
    weight, x = torch.randn(300, 64), torch.randn(40, 64)
    wanted = NativeLinear.pack(NativeLibrary(path, 1), weight, None, torch.float32)(x)
    linear = NativeLinear.pack(NativeLibrary(path, num_threads), weight, None, torch.float32)
    # Many jobs in a row: a helper that claimed from a job gone by would leave a result unwritten.
    for _ in range(300):
        assert torch.equal(linear(x), wanted)


def test_two_that_compile_at_once_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that writes down its calls and makes empty files."""
    body = f'echo "$@" >> {tmp_path}/calls; sleep 0.05'
    # As with "ccache g++": the command is more than one word.
    monkeypatch.setenv("CXX", f"/bin/sh {write_compiler(tmp_path, body)}")
    cache, found = tmp_path / "cache", list[Path]()
    threads = [threading.Thread(target=lambda: found.append(compiled_library("avx2", cache))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]
    links = [call for call in (tmp_path / "calls").read_text().splitlines() if "-shared" in call]
    assert len(links) == 1
    assert compiled_library("avx512", cache) != found[0]
    # Another version's may take its time.
    with found[0].with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert compiled_library("avx2", cache) == found[0]
        monkeypatch.setenv("CXX", f"/bin/sh -e {write_compiler(tmp_path, body)}")
        assert compiled_library("avx2", cache) != found[0]


def test_a_library_serves_until_a_source_or_a_header_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    monkeypatch.setattr("quire.kernels.native.compiler.CSRC", sources)
    monkeypatch.setenv("CXX", write_compiler(tmp_path, ""))
    found = compiled_library("avx2", tmp_path)
    assert compiled_library("avx2", tmp_path) == found
    others = [found]
    for name in ("rms_norm.cpp", "attention.h", "common/simd.h", "common/pool.cpp"):
        with (sources / name).open("a") as changed:
            changed.write("// changed")
        others.append(compiled_library("avx2", tmp_path))
    (sources / "rms_norm.cpp").rename(sources / "norm.cpp")
    others.append(compiled_library("avx2", tmp_path))
    assert len(set(others)) == len(others)


def test_without_a_compiler_the_reference_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match="none of no-such-compiler is on the path"):
        compiled_library("avx2", tmp_path)
    assert kernel_suite("auto", CPU, torch.float32, 1).name == "torch"
    assert [record.getMessage() for record in caplog.records if record.name == "quire.kernels.registry"] == [
        "computing with PyTorch, several times slower: kernels: 'native': no C++ compiler: none of no-such-compiler "
        "is on the path"
    ]
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        kernel_suite("native", CPU, torch.float32, 1)


@pytest.mark.long
def test_a_level_that_cannot_be_had_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An older compiler does not know the newest instructions, and systems do not permit all."""
    compiler, level = find_compiler(), supported_levels()[-1]
    body = f'case "$*" in *-mamx*) echo "what is -mamx?" >&2; exit 1;; esac\nexec {shlex.join(compiler)} "$@"'
    monkeypatch.setenv("CXX", f"/bin/sh {write_compiler(tmp_path, body)}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native_backend, "supported_levels", lambda: ("amx_bf16", level))
    assert kernel_suite("native", CPU, torch.float32, 1).name == "native"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "no C++ kernels for amx_bf16, slower ones are tried: /bin/sh failed with status 1: what is -mamx?"
    ]


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = write_compiler(tmp_path, "echo 'fatal: out of tin' >&2\nexit 3")
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(CompileError, match="failed with status 3: fatal: out of tin"):
        compiled_library("avx2", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_suites_are_refused_where_they_cannot_compute() -> None:
    with pytest.raises(ValueError, match="must be one of auto, native, cuda, torch, got 'fast'"):
        kernel_suite("fast", CPU, torch.float32, None)
    with pytest.raises(ValueError, match=r"needs torch\.float32 or torch\.bfloat16, got torch\.float16"):
        kernel_suite("native", CPU, torch.float16, None)


def test_odd_depths_are_left_to_the_reference(library: NativeLibrary) -> None:
    weight, x = torch.randn(5, 7), torch.randn(3, 7)
    torch.testing.assert_close(native_suite(library).linear(weight, None, torch.float32)(x), x @ weight.T)


def test_levels_are_read_from_the_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 fma f16c bmi2 sse\n")
    assert supported_levels(cpuinfo) == ("avx2",)
    cpuinfo.write_text("Features : asimd\n")
    assert supported_levels(cpuinfo) == ()
    assert supported_levels(tmp_path / "none") == ()
    assert set(supported_levels()) <= set(LEVELS)
    assert os.access(compiled_library(supported_levels()[0]), os.R_OK)


@dtypes
@pytest.mark.parametrize(("columns", "depth", "group"), [(31, 64, 32), (97, 128, 128), (960, 576, 64), (64, 96, 96)])
@pytest.mark.parametrize("has_zeros", [False, True], ids=["symmetric", "zeros"])
def test_int4(
    library: NativeLibrary, dtype: torch.dtype, columns: int, depth: int, group: int, has_zeros: bool
) -> None:
    """Codes of 4 bits stay 4 bits; the product is that of the matrix that they stand for, row by row."""
    codes = torch.randint(-8, 8, (columns, depth), dtype=torch.int8)
    scales = torch.rand(columns, depth // group) / (8 * depth**0.5)
    zeros = torch.randint(-8, 9, scales.shape).float() if has_zeros else None
    weight, bias = CodedWeight(codes, scales, dtype, zeros, bits=4), torch.randn(columns).to(dtype)
    native = NativeLinear.pack(library, weight, bias, dtype)
    assert native.tensors[0] is not None
    assert native.tensors[0].nbytes * 2 == -(-columns // 32) * 32 * depth
    for num_tokens in (0, 1, 7, 300):
        x = torch.randn(num_tokens, depth).to(dtype)
        found = native(x)
        wanted = x.float() @ weight.widened(torch.float32).T + bias.float()
        # Where panels are widened, their numbers are rounded, too.
        torch.testing.assert_close(found.float(), wanted, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
        for row in range(0, num_tokens, 60):
            assert torch.equal(native(x[row : row + 1]), found[row : row + 1])


@dtypes
@pytest.mark.parametrize("size", [16, 23, 250])
def test_gated_int4(library: NativeLibrary, dtype: torch.dtype, size: int) -> None:
    weight = coded_int4((torch.randn(2 * size, 64) / 4).to(dtype))
    native = NativeLinear.pack(library, weight, None, dtype, activation=SILU)
    x = torch.randn(40, 64).to(dtype)
    wanted = activate(x.float() @ weight.widened(torch.float32).T, SILU)
    torch.testing.assert_close(native(x).float(), wanted, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])


def test_codings_are_near() -> None:
    weight = torch.randn(40, 96) * torch.logspace(-3, 3, 40)[:, None]
    steps = weight.unflatten(1, (-1, 32)).abs().amax(2).repeat_interleave(32, 1)
    assert bool(((coded_int4(weight).widened(torch.float32) - weight).abs() <= steps * 2 / 15 + 1e-9).all())
    assert coded_int4(torch.randn(4, 40)).bits == 8
    assert torch.equal(coded_int4(torch.zeros(2, 32)).widened(), torch.zeros(2, 32))
