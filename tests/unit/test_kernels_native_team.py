"""Threads that go through a step together, of which one loses its core."""

import subprocess
from pathlib import Path

from quire.kernels.native.compiler import CSRC, find_compiler


def test_a_team_keeps_its_promises(tmp_path: Path) -> None:
    program = tmp_path / "team"
    pool = (CSRC / "common" / name for name in ("jobs.cpp", "pool.cpp", "team.cpp"))
    sources = [Path(__file__).parent / "native_team.cpp", *pool]
    flags = ("-std=c++20", "-O2", "-pthread", "-I", str(CSRC))
    subprocess.run([*find_compiler(), *flags, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
