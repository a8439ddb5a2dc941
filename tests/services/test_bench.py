"""`quire bench` from end to end: closed and open loops over both protocols, and the engine in process."""

import json
from pathlib import Path
from typing import Any

import pytest

from quire.services.cli import main
from support.stacks import RunningStack

SHORT = (
    "--num-requests=6",
    "--input-tokens=20",
    "--output-tokens=8",
    "--vocab-size=2000",
    "--warmup=2",
    "--no-progress",
)


def runs(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    return found


@pytest.mark.parametrize("protocol", ["grpc", "grpc --multiplex", "http"])
@pytest.mark.parametrize("load", ["--concurrency=1,3", "--rate=40"])
def test_a_load_is_reported(stack: RunningStack, tmp_path: Path, protocol: str, load: str) -> None:
    out, report = tmp_path / "result.json", tmp_path / "report"
    scheme, *options = protocol.split()
    target = f"grpc://{stack.frontend}" if scheme == "grpc" else f"http://{stack.http}"
    flags = (f"--target={target}", *options, load, "--slo=ttft:60000", f"--json={out}", f"--report={report}")
    assert main(["bench", "serve", *SHORT, *flags]) == 0
    for run in runs(out):
        summary = run["summary"]
        assert (summary["succeeded"], summary["failed"]) == (6, 0)
        assert summary["output_tokens"] == 6 * 8
        assert summary["prompt_tokens"] == 6 * 20
        assert summary["goodput_per_s"] > 0
        assert 0 < summary["ttft_ms"]["p50"] <= summary["e2e_ms"]["p50"]
        # On a busy machine all events may arrive at once.
        assert summary["itl_ms"]["p99"] >= 0
    assert len(runs(out)) == (2 if "," in load else 1)
    assert (report / "report.html").is_file()


@pytest.mark.parametrize("options", [(), ("--multiplex",)], ids=["calls", "one call"])
def test_requests_that_fail_are_counted_by_kind(
    stack: RunningStack, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """Longer than the pool can ever hold."""
    out = tmp_path / "result.json"
    flags = ("--num-requests=2", "--input-tokens=5000", "--warmup=0", "--no-progress", "--concurrency=2")
    assert main(["bench", "serve", f"--target=grpc://{stack.frontend}", *options, *flags, f"--json={out}"]) == 1
    (run,) = runs(out)
    assert run["summary"]["failed"] == 2
    assert run["summary"]["errors"] == {"INVALID_ARGUMENT": 2}
    assert "concurrency 2: 2 x INVALID_ARGUMENT: token_ids" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json={folder}"], "{folder}: cannot be written"),
        (["--json={folder}/none/x.json"], "{folder}/none/x.json: cannot be written"),
        (["--report={folder}/file"], "--report {folder}/file: File exists"),
        (["--compare={folder}/none.json"], "{folder}/none.json: not a result of quire bench"),
        (["--rate=2,-1"], "--rate: must be above 0 and finite, got [2.0, -1.0]"),
        (["--concurrency=0"], "--concurrency: must be above 0 and finite, got [0]"),
        (["--trace={folder}/file", "--num-turns=2"], "--trace: it says what is sent; leave out --num-turns"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    stack: RunningStack, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    given = [flag.format(folder=tmp_path) for flag in flags]
    assert main(["bench", "serve", f"--target=grpc://{stack.frontend}", *given]) == 1
    assert message.format(folder=tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_two_runs_have_prompts_of_their_own(
    stack: RunningStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless they are given one seed, which is said where they are compared."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    command = ("bench", "serve", *SHORT, f"--target={stack.frontend}", "--concurrency=2")
    assert main([*command, f"--json={first}"]) == 0
    seed = json.loads(first.read_text())["settings"]["seed"]
    assert f"seed {seed}\n" in capsys.readouterr().out
    assert main([*command, f"--json={second}", f"--compare={first}"]) == 0
    assert json.loads(second.read_text())["settings"]["seed"] != seed
    # Random prompts may begin alike.
    assert runs(second)[0]["summary"]["cached_tokens"] < 6 * 5
    assert "warning" not in capsys.readouterr().out
    assert main([*command, f"--json={second}", f"--seed={seed}"]) == 0
    assert runs(second)[0]["summary"]["cached_tokens"] >= 6 * 16
    assert main(["bench", "compare", str(second), str(first)]) == 0
    assert f"warning: both sent the same prompts to {stack.frontend}" in capsys.readouterr().out


def test_throughput_in_process(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    flags = ("--num-requests=6", "--input-tokens=20", "--output-tokens=8", "--num-blocks=64")
    assert main(["bench", "throughput", *flags, f"--json={out}"]) == 0
    (run,) = runs(out)
    assert run["summary"]["succeeded"] == 6
    assert run["summary"]["output_tokens_per_s"] > 0


def test_latency_in_process(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--batch-size=2", "--num-iterations=2", "--num-warmup=1", "--input-tokens=20", "--output-tokens=4")
    assert main(["bench", "latency", *flags, "--num-blocks=64"]) == 0
    assert "p50" in capsys.readouterr().out
