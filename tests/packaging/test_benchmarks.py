"""The benchmarks still speak to the engine as it is: each of those for CPUs runs, on next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from quire.engine.demo_model import DEMO_MODEL

FOLDER = Path(__file__).parents[2] / "benchmarks"


# What takes seconds and rarely breaks alone.
LONG = (
    ("beam_search.py", ["--width=2", "--tokens=3", "--rounds=1"], "| beam search / sampling |"),
    ("cpu_kernels.py", ["--rows=1", "--repeats=1"], "norms of"),
    ("cpu_step.py", [str(DEMO_MODEL), "--batches=2", "--context=40", "--repeats=1"], "context 512"),
    ("executor_start.py", ["--rounds=1", "--kills=1"], "| the stream goes on |"),
    ("hang_detection.py", ["--repeats=1", "--stall-seconds=1"], "| scheduler, busy |"),
    ("footprint.py", ["--requests=4", "--concurrency=2"], "| redis |"),
    ("long_text.py", ["--at-once=1", "--probes=4", "--kinds=1 MiB of words"], "| 1 MiB of words | Tokenize |"),
    ("noisy_neighbour.py", [str(DEMO_MODEL), "--batches=2", "--turns=1"], "| context 512 |"),
    ("overload.py", ["--seconds=0.5", "--output-tokens=4", "--max-waiting=8"], "| HTTP | 10x |"),
    ("structured_output.py", ["--streams=2", "--tokens=4", "--rounds=1"], "| with / without |"),
)


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("frontend.py", ["--streams=2", "--tokens=40"], "| sse | 2 |"),
        ("startup.py", ["--rounds=1"], "| executor | this |"),
        ("scheduler_cost.py", ["--sequences=64,256", "--steps=20"], "|   256 |"),
        *(pytest.param(*each, marks=pytest.mark.long) for each in LONG),
    ],
)
def test_it_runs(script: str, flags: list[str], expected: str) -> None:
    command = [sys.executable, str(FOLDER / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
