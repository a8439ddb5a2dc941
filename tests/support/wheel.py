"""What users install, built from a copy of the checkout by the dev group's build tools, without network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = (".git", ".venv", ".editable", ".*_cache", ".hypothesis", "__pycache__", "node_modules", "build", "dist")


def run(*command: str | Path, cwd: Path, pythonpath: Sequence[Path] = (), **variables: str) -> str:
    """Runs a command to its end and returns what it printed; a failure shows all of its output."""
    # protoc finds its plugins on PATH, which names the environment's scripts only where it is activated.
    env = {**os.environ, **variables}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    env["PYTHONPATH"] = os.pathsep.join(map(str, pythonpath))
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_checkout(copy: Path) -> Path:
    """A clean copy of the repository, so that nothing is built in the one at work."""
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return copy


def build(source: Path, kind: str, out: Path, **variables: str) -> Path:
    """Builds `source` as "wheel" or "sdist" and returns the one file that is then in `out`.

    Args:
        variables: of the environment.
    """
    run(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", out, cwd=source, **variables)
    (built,) = out.iterdir()
    return built
