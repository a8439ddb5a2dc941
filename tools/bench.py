#!/usr/bin/env python3
"""The CPU tables of docs/performance.md: steps, services against `LLM`, and four loads over HTTP.

tools/bench.py FOLDER [--peer URL] [--model DIR] [--rounds N] [FLAG OF quire up]...

The model is one of random weights in the shape of a 135M Llama, unless a folder is given. With --peer, another server
of OpenAI's completions API gets the same loads in alternating rounds, and the ratios are printed.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.demo_model import DEMO_MODEL
from quire.services.common.settings import parse
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# Prompts of ids below this are text to every model.
VOCABULARY = "--vocab-size=2000"
LOADS = {
    "one stream": ("--num-requests=8", "--input-tokens=128", "--output-tokens=64", "--concurrency=1"),
    "64 at once": ("--num-requests=64", "--input-tokens=128", "--output-tokens=64", "--concurrency=64"),
    "64 with a prefix": (
        *("--num-requests=64", "--input-tokens=32", "--output-tokens=32", "--prefix-tokens=1024"),
        "--concurrency=64",
    ),
    "2.1 a second": ("--num-requests=60", "--input-tokens=256", "--output-tokens=64", "--rate=2.1"),
}
COLUMNS = {
    "out tok/s": lambda s: s["output_tokens_per_s"],
    "TTFT p50": lambda s: s["ttft_ms"]["p50"],
    "TTFT p99": lambda s: s["ttft_ms"]["p99"],
    "ITL p50": lambda s: s["itl_ms"]["p50"],
    "ITL p99": lambda s: s["itl_ms"]["p99"],
}


def write_model(folder: Path) -> Path:
    """A Llama of 135M parameters with random bfloat16 weights and the demo model's tokenizer."""
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100_000.0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    return folder


async def bench(target: str, *flags: str, quiet: bool = False) -> None:
    """`quire bench serve`."""
    command = (sys.executable, "-m", "quire.services.cli", "bench", "serve", f"--target={target}", VOCABULARY)
    process = await asyncio.create_subprocess_exec(*command, *flags, stdout=DEVNULL if quiet else None)
    if await process.wait():
        raise SystemExit(f"{target} failed under {' '.join(flags)}")


async def measure(target: str, seed: int, load: tuple[str, ...], out: Path) -> dict[str, float]:
    """The columns of one run."""
    await bench(target, *load, f"--seed={seed}", "--warmup=0", "--no-progress", f"--json={out}", quiet=True)
    (run,) = json.loads(out.read_text())["runs"]
    return {name: pick(run["summary"]) for name, pick in COLUMNS.items()}


@asynccontextmanager
async def services(flags: list[str]) -> AsyncIterator[Stack]:
    """All services on free ports, as `quire up` starts them with these flags."""
    ports = ["--frontend-port=0", "--http-port=0", "--scheduler-port=0", "--executor-port=0", "--log-level=warning"]
    stack = Stack(parse(UpSettings, "quire up", [*ports, *flags]), quiet=True)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


async def compare(targets: dict[str, str], folder: Path, rounds: int) -> None:
    """Prints a table of all loads and targets; the first round of each load warms up and does not count."""
    print(f"\n| load | server | {' | '.join(COLUMNS)} |\n|{'---|' * (2 + len(COLUMNS))}")
    for name, load in LOADS.items():
        found: dict[str, list[dict[str, float]]] = {server: [] for server in targets}
        for number in range(rounds + 1):
            for server, target in targets.items():
                out = folder / f"{name.replace(' ', '-')}-{server}-{number}.json"
                found[server].append(await measure(target, number, load, out))
        for server, (_, *runs) in found.items():
            cells = [f"{statistics.median(run[column] for run in runs):,.1f}" for column in COLUMNS]
            print(f"| {name} | {server} | {' | '.join(cells)} |", flush=True)
            if server != "quire":
                pairs = list(zip(found["quire"][1:], runs, strict=True))
                ratios = [
                    statistics.median(ours[column] / theirs[column] for ours, theirs in pairs) for column in COLUMNS
                ]
                print(f"| {name} | quire / {server} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


async def load_services(model: Path, folder: Path, peer: str | None, rounds: int, flags: list[str]) -> None:
    async with services([f"--model={model}", "--executor.dtype=bfloat16", *flags]) as stack:
        await compare({"quire": f"http://{stack.http}"} | ({"peer": peer} if peer else {}), folder, rounds)
        curves = ("--num-requests=64", "--concurrency=1,4,16,64", "--slo=ttft:2000", "--seed=99")
        await bench(f"grpc://{stack.frontend}", *curves, f"--report={folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", help="URL of another server, such as http://127.0.0.1:8101")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args, flags = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or write_model(Path(scratch))
        for script, *options in (("cpu_step.py", str(model)), ("services_cost.py", f"--model={model}")):
            subprocess.run([sys.executable, BENCHMARKS / script, *options], check=True)
        asyncio.run(load_services(model, args.folder, args.peer, args.rounds, flags))


if __name__ == "__main__":
    main()
