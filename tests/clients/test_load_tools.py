"""Load tools of other projects, unmodified: guidellm and aiperf. Every request must succeed."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from quire.engine.demo_model import DEMO_MODEL
from support.stacks import RunningStack, launch

pytestmark = pytest.mark.clients
# `make test-clients` makes it.
TOOLS: Final = Path(os.environ.get("QUIRE_EVALS", ".venv/evals/bin")).absolute()
TEMPLATE: Final = Path(__file__).parents[1] / "support" / "chat_templates" / "chatml.jinja"
NUM_REQUESTS: Final = 12
NUM_TOKENS: Final = 16


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": 512}, chat_template=str(TEMPLATE)) as made:
        yield made


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("backend", "profile"),
    [("", "kind=throughput,max_concurrency=8"), (",request_format=/v1/completions", "kind=concurrent,streams=4")],
    ids=["chat", "completions"],
)
def test_guidellm(stack: RunningStack, tmp_path: Path, backend: str, profile: str) -> None:
    report = tmp_path / "report.json"
    flags = {
        "--backend": f"kind=openai_http,target=http://{stack.http}{backend}",
        "--profile": profile,
        "--constraint": f"kind=max_requests,count={NUM_REQUESTS}",
        "--data": f"kind=synthetic_text,prompt_tokens=64,output_tokens={NUM_TOKENS}",
        "--tokenizer": f"kind=huggingface_auto,model={DEMO_MODEL}",
        "--output": f"kind=json,path={report}",
    }
    run(TOOLS / "guidellm", "run", "--disable-console", *(word for flag in flags.items() for word in flag))
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    made = benchmark["scheduler_metrics"]["requests_made"]
    assert made == {"successful": NUM_REQUESTS, "errored": 0, "incomplete": 0, "total": NUM_REQUESTS}
    outputs = [request["output_metrics"]["text_tokens"] for request in benchmark["requests"]["successful"]]
    assert outputs == [NUM_TOKENS] * NUM_REQUESTS


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("chat", ()),
        ("chat", ("--streaming",)),
        ("chat", ("--streaming", "--use-server-token-count", "--per-chunk-usage")),
        ("completions", ()),
        ("completions", ("--streaming",)),
    ],
)
def test_aiperf(stack: RunningStack, tmp_path: Path, kind: str, flags: tuple[str, ...]) -> None:
    load = ("--request-count", str(NUM_REQUESTS), "--concurrency", "4", "--isl", "64", "--osl", str(NUM_TOKENS))
    server = ("--url", f"http://{stack.http}", "-m", DEMO_MODEL.name, "--tokenizer", DEMO_MODEL)
    output = ("--ui", "none", "--artifact-dir", tmp_path)
    more = ("--extra-inputs", "ignore_eos:true", *flags)
    run(TOOLS / "aiperf", "profile", "--endpoint-type", kind, *server, *load, *output, *more)
    found: dict[str, Any] = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    assert (found["request_count"]["avg"], found["error_summary"]) == (NUM_REQUESTS, [])
    usage = found["usage_completion_tokens"]
    assert (usage["min"], usage["max"]) == (NUM_TOKENS, NUM_TOKENS)
    check_server_metrics(stack, json.loads((tmp_path / "server_metrics_export.json").read_text()))


def check_server_metrics(stack: RunningStack, found: dict[str, Any]) -> None:
    """aiperf finds /metrics by itself, and reports what the frontend has counted meanwhile."""
    assert found["summary"]["endpoints_successful"] == [f"http://{stack.http}/metrics"]
    (tokens,) = found["metrics"]["quire_frontend_generation_tokens"]["series"]
    # A warm-up may have been counted, too.
    assert tokens["stats"]["total"] >= NUM_REQUESTS * NUM_TOKENS
    (first,) = found["metrics"]["quire_frontend_time_to_first_token_seconds"]["series"]
    assert first["stats"]["count"] >= NUM_REQUESTS
