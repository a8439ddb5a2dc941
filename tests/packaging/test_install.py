"""What users install, built from a copy of the checkout by the dev group's build tools, without network."""

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from quire.kernels.native.levels import LEVELS
from support.compilers import write_compiler
from support.wheel import ROOT, build, copy_checkout, run

STUBS = {
    f"{proto.relative_to(ROOT / 'protos').with_suffix('')}_pb2{suffix}"
    for proto in (ROOT / "protos").rglob("*.proto")
    for suffix in (".py", ".pyi", "_grpc.py", "_grpc.pyi")
}
TOP_LEVEL_FOLDERS = ("kernels", "engine", "clients", "services")
OTHER_LANGUAGES = ("clients/cpp", "clients/go", "clients/node")


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the repository, so that nothing is built in the one at work."""
    return copy_checkout(tmp_path_factory.mktemp("packaging") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked_sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdist = build(checkout, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    run("tar", "-xzf", sdist, cwd=folder)
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed and nothing else."""
    target = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=target)
    return target


def test_wheel_holds_every_source_file_and_the_stubs(wheel: Path, checkout: Path) -> None:
    sources = {
        f"quire/{path.relative_to(checkout)}"
        for folder in TOP_LEVEL_FOLDERS
        for suffix in (".py", ".cpp", ".h", ".lua", ".html", ".css", ".js", ".svg")
        for path in (checkout / folder).rglob(f"*{suffix}")
        if not str(path.relative_to(checkout)).startswith(OTHER_LANGUAGES)
    }
    packages = {f"quire/{folder}__init__.py" for folder in ("", "v1/", "internal/", "internal/v1/")}
    expected = sources | STUBS | packages | {"quire/py.typed"}
    assert expected - names_in(wheel) == set()


def test_wheel_puts_nothing_but_quire_into_site_packages(wheel: Path) -> None:
    top_level = {name.split("/")[0] for name in names_in(wheel)}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"quire"}


def test_wheel_holds_no_leftovers_and_no_other_language(wheel: Path) -> None:
    others = tuple(f"quire/{folder}/" for folder in OTHER_LANGUAGES)
    assert [name for name in names_in(wheel) if "__pycache__" in name or "/tests/" in name] == []
    assert [name for name in names_in(wheel) if name.startswith(others)] == []


def test_a_wheel_is_for_any_machine_unless_it_is_to_carry_compiled_kernels(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    # What a real compiler makes of the kernels is tested where wheels are installed.
    compiler = write_compiler(tmp_path, "")
    carrying = build(checkout, "wheel", tmp_path / "wheel", QUIRE_WHEEL_KERNELS="1", CXX=compiler)
    assert carrying.name.endswith("-py3-none-linux_x86_64.whl")
    libraries = {f"quire/kernels/native/lib/{level}.so" for level in LEVELS}
    assert names_in(carrying) - names_in(wheel) == libraries | {"quire/kernels/native/lib/sources.sha256"}


def test_building_leaves_the_checkout_as_it_was(wheel: Path, checkout: Path) -> None:
    assert not (checkout / "build").exists()
    assert not (checkout / ".editable").exists()
    assert not (checkout / "kernels/native/lib").exists()


def test_sdist_can_be_built_and_tested(unpacked_sdist: Path) -> None:
    for name in ("pyproject.toml", "hatch_build.py", "Makefile", "LICENSE", "README.md", "PKG-INFO"):
        assert (unpacked_sdist / name).is_file(), name
    assert (unpacked_sdist / "protos/quire/v1/inference.proto").is_file()
    assert (unpacked_sdist / "tests/packaging/test_install.py").is_file()


def test_wheel_from_the_sdist_is_the_wheel_from_the_checkout(unpacked_sdist: Path, wheel: Path, tmp_path: Path) -> None:
    assert names_in(build(unpacked_sdist, "wheel", tmp_path)) == names_in(wheel)


def test_installed_package_imports_from_its_own_folder(installed: Path, tmp_path: Path) -> None:
    code = "import quire, quire.engine.step; print(quire.__file__); print(quire.__version__)"
    file, version = run(sys.executable, "-c", code, cwd=tmp_path, pythonpath=[installed]).split()
    assert Path(file) == installed / "quire" / "__init__.py"
    assert (installed / f"quire-{version}.dist-info").is_dir()


def test_stubs_load_and_round_trip_under_the_installed_protobuf(installed: Path, tmp_path: Path) -> None:
    # One process: a second copy of the same protos would clash with those of the checkout.
    code = """
from quire.internal.v1 import executor_pb2_grpc, scheduler_pb2_grpc
from quire.v1 import inference_pb2, inference_pb2_grpc
sent = inference_pb2.GenerateRequest(request_id="a", text="b")
print(inference_pb2.__file__)
print(inference_pb2.GenerateRequest.FromString(sent.SerializeToString()) == sent)
"""
    output = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, pythonpath=[installed])
    assert output.split() == [str(installed / "quire/v1/inference_pb2.py"), "True"]


def test_editable_install_links_to_the_checkout(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(checkout, copy)
    target = tmp_path / "site"
    options = ("--no-deps", "--no-build-isolation", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, "--editable", copy, cwd=tmp_path)
    code = "import quire.engine.step, quire.v1.inference_pb2; print(quire.engine.step.__file__)"
    (path_file,) = target.glob("*.pth")
    printed = run(sys.executable, "-c", code, cwd=tmp_path, pythonpath=[Path(path_file.read_text().strip())])
    assert Path(printed.strip()).resolve() == copy / "engine" / "step.py"
