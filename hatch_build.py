"""Build hook: compiles the protos into packages of `quire` and, for editable installs, links a package.

A wheel gets the stubs from a temporary folder. An editable install gets `.editable/quire`: the stubs,
and links to the checkout's folders. So `quire.engine` is `engine/`, for Python and for type checkers.

With QUIRE_WHEEL_KERNELS=1 a wheel also gets the C++ kernels for every level of instructions, and is for x86-64 only.
Others are for any machine, and compile the kernels where they are first used.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc_tools
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileProtos(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            out = root / ".editable"
            shutil.rmtree(out, ignore_errors=True)
            write_stubs(root / "protos", out)
            for name in self.build_config.build_config["only-include"]:
                (out / "quire" / name).symlink_to(root / name)
        else:
            self.made = tempfile.TemporaryDirectory(prefix="quire-made-")
            # `sources` in pyproject.toml puts "quire/" before these as before every other path.
            for package in write_stubs(root / "protos", Path(self.made.name) / "stubs"):
                build_data["force_include"][str(package)] = package.name
            if os.environ.get("QUIRE_WHEEL_KERNELS") == "1":
                kernels = compile_kernels(root / "kernels", Path(self.made.name))
                build_data["force_include"][str(kernels)] = "kernels/native/lib"
                # Plain C behind ctypes: one library for every Python. auditwheel writes the tag that PyPI takes.
                build_data.update(pure_python=False, tag="py3-none-linux_x86_64")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.made.cleanup()


def write_stubs(protos: Path, out: Path) -> list[Path]:
    """Makes a package below `out` for each folder of protos; returns the folders of those directly in `quire`."""
    out.mkdir(parents=True, exist_ok=True)
    compile_protos(protos, out)
    packages = sorted((out / "quire").iterdir())
    for folder in (each for package in packages for each in (package, *package.rglob("*")) if each.is_dir()):
        (folder / "__init__.py").write_text(f'"""Generated from protos/{folder.relative_to(out)}."""\n')
    return packages


def compile_protos(protos: Path, out: Path) -> None:
    """Writes messages, services and their type stubs of every proto below `protos` to `out`."""
    files = sorted(str(path) for path in protos.rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    plugins = [f"--{kind}={out}" for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")]
    if protoc.main(["protoc", f"-I{protos}", f"-I{include}", *plugins, *files]) != 0:
        raise RuntimeError(f"protoc failed on {files}; is protoc-gen-mypy of mypy-protobuf on PATH?")


def compile_kernels(kernels: Path, out: Path) -> Path:
    """Compiles the C++ kernels for every level of instructions; returns the folder of the libraries."""
    # A package that holds nothing else: Quire's dependencies are not there while it is built.
    package = out / "package" / "quire"
    package.mkdir(parents=True)
    (package / "kernels").symlink_to(kernels)
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "quire.kernels.native.shipped", str(out / "lib")]
    subprocess.run(command, env=environment, check=True)
    return out / "lib"
