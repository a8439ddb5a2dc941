"""Workloads are what they say, and the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest

from quire.clients.bench.workload.arrivals import arrivals
from quire.clients.bench.workload.lengths import MAX_LENGTH, parse_lengths
from quire.clients.bench.workload.synthetic import Synthetic, synthetic_sessions
from quire.clients.bench.workload.traces import TraceFormat, read_trace, trace_sessions
from quire.engine.api.errors import InvalidRequest, StartupError


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_lengths_follow_their_distribution() -> None:
    assert set(parse_lengths("128", "x").sample(rng(), 100)) == {128}
    uniform = parse_lengths("uniform:3:6", "x").sample(rng(), 1000)
    assert set(uniform) == {3, 4, 5, 6}
    logs = np.log(parse_lengths("lognormal:200:0.5", "x").sample(rng(), 20_000))
    assert np.exp(np.median(logs)) == pytest.approx(200, rel=0.03)
    assert logs.std() == pytest.approx(0.5, rel=0.03)
    assert parse_lengths("lognormal:1:3", "x").sample(rng(), 1000).min() == 1
    assert parse_lengths("lognormal:1:100", "x").sample(rng(), 1000).max() == MAX_LENGTH


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "uniform:5:4", "uniform:0:4", "lognormal:0:1", "lognormal:5:nan", "zipf:3", "9" * 5000, "10000001"],
)
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^--input-tokens: must be a number, uniform"):
        parse_lengths(text, "--input-tokens")


@pytest.mark.parametrize(("burstiness", "variation"), [(1.0, 1.0), (0.25, 2.0), (100.0, 0.1)])
def test_arrivals_have_their_rate_and_burstiness(burstiness: float, variation: float) -> None:
    gaps = np.diff(arrivals(rng(), 40_000, 5.0, burstiness))
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_sessions_are_the_same_for_the_same_seed() -> None:
    shape = Synthetic(parse_lengths("uniform:4:9", "x"), parse_lengths("8", "x"), 500, 20, 2, 3)
    sessions = synthetic_sessions(shape, 12, rng())
    assert sessions == synthetic_sessions(shape, 12, rng())
    assert sessions != synthetic_sessions(shape, 12, rng(8))
    assert len({session.turns[0].prompt[:20] for session in sessions}) == 2
    assert {len(session.turns) for session in sessions} == {3}
    assert all(4 <= len(session.turns[1].prompt) <= 9 for session in sessions)
    assert all(max(turn.prompt) < 500 for session in sessions for turn in session.turns)


def test_azure_trace(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,374,44\n2023-11-16 18:17:05.4799600,120,0\n"
    )
    entries = read_trace(path, "azure")
    assert [(entry.at, entry.input_tokens, entry.output_tokens) for entry in entries] == [
        (0.0, 374, 44),
        (pytest.approx(1.5), 120, 1),
    ]
    faster = trace_sessions(entries, 100, 0, speed=3.0)
    assert faster[1].at == pytest.approx(0.5)
    assert len(faster[0].turns[0].prompt) == 374


def test_mooncake_blocks_of_one_name_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    path.write_text(
        '{"timestamp": 500, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]}\n'
        '{"timestamp": 1500, "input_length": 700, "output_length": 9, "hash_ids": [1, 4]}\n'
    )
    entries = read_trace(path, "mooncake")
    first, second = (session.turns[0].prompt for session in trace_sessions(entries, 1000, 0))
    assert (entries[1].at, len(first), len(second)) == (1.0, 1100, 700)
    assert first[:512] == second[:512]
    assert first[512:700] != second[512:]


def test_jsonl_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"prompt": "hello", "output_tokens": 3}\n\n{"input_ids": [4, 5], "output_tokens": 2}\n')
    prompts = [session.turns[0].prompt for session in trace_sessions(read_trace(path, "jsonl"), 10, 0)]
    assert prompts == ["hello", (4, 5)]
    assert read_trace(path, "jsonl", limit=1)[0].at is None


JSONL = '{"prompt": "fine", "output_tokens": 1}'
MOONCAKE = '{"timestamp": 500, "input_length": 11, "output_length": 5, "hash_ids": [1]}'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,374,44"


@pytest.mark.parametrize(
    ("first", "line"),
    [
        *((JSONL, line) for line in ("{", "[]", "3", "null", '"a"', "[" * 100_000, "{}", '{"prompt": "a"}')),
        (JSONL, '{"input_ids": [], "output_tokens": 2}'),
        (JSONL, '{"input_ids": "123", "output_tokens": 2}'),
        (JSONL, '{"input_ids": [1.5], "output_tokens": 2}'),
        (JSONL, '{"input_ids": [true], "output_tokens": 2}'),
        (JSONL, '{"input_ids": [-1], "output_tokens": 2}'),
        (JSONL, '{"input_ids": [4294967296], "output_tokens": 2}'),
        (JSONL, '{"output_tokens": 2}'),
        (JSONL, '{"prompt": "", "output_tokens": 2}'),
        (JSONL, '{"prompt": ["a"], "output_tokens": 2}'),
        (JSONL, '{"prompt": "\\ud800", "output_tokens": 2}'),
        (JSONL, '{"prompt": "a", "output_tokens": 0}'),
        (JSONL, '{"prompt": "a", "output_tokens": 2.5}'),
        (JSONL, '{"prompt": "a", "output_tokens": 1000000000000}'),
        (JSONL, '{"prompt": "a", "output_tokens": 1, "timestamp": NaN}'),
        (JSONL, '{"prompt": "a", "output_tokens": 1, "timestamp": 1e999}'),
        (JSONL, '{"prompt": "a", "output_tokens": 1, "timestamp": "now"}'),
        (MOONCAKE, "[]"),
        (MOONCAKE, '{"timestamp": 500, "input_length": 11, "output_length": 5, "hash_ids": 3}'),
        (MOONCAKE, '{"timestamp": 500, "input_length": 11, "output_length": 5, "hash_ids": [-1]}'),
        (MOONCAKE, '{"timestamp": 500, "input_length": 1e15, "output_length": 5}'),
        (MOONCAKE, '{"timestamp": null, "input_length": 11, "output_length": 5}'),
        (AZURE, "yesterday,1,1"),
        (AZURE, "2023-11-16 18:17:03,1"),
        (AZURE, "2023-11-16 18:17:03,-1,1"),
        (AZURE, "2023-11-16 18:17:03,99999999999999999999,1"),
    ],
)
def test_a_broken_trace_names_the_request(tmp_path: Path, first: str, line: str) -> None:
    path = tmp_path / "trace"
    path.write_text(f"{first}\n{line}\n")
    trace_format: TraceFormat = {JSONL: "jsonl", MOONCAKE: "mooncake"}.get(first, "azure")
    with pytest.raises(StartupError, match=f"request 2 is not in the {trace_format} format: ") as caught:
        read_trace(path, trace_format)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("trace_format", ["jsonl", "azure", "mooncake"])
@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"", b"\n\n", b"a" * 200_000])
def test_a_file_that_is_no_trace(tmp_path: Path, content: bytes, trace_format: TraceFormat) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content + b"\n" + content)
    with pytest.raises(StartupError, match=f"^{path}: "):
        read_trace(path, trace_format)
