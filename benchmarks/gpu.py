#!/usr/bin/env python3
"""The GPU executor against what the card can do: one run, one table.

  python benchmarks/gpu.py [--model DIR] [--quantization fp8] [--kv-cache-dtype fp8] [--quick]

Without a model: random bfloat16 weights in the shape of Llama-3.1-8B. First the two ceilings: bytes that a copy moves,
and operations of a bfloat16 matrix product. A generation step must read the weights (but the embedding) and its
sequences' keys and values, and multiply; a context step multiplies. End to end, all requests are sent at once to `LLM`.
The GPU waits whenever no step of two in flight is being computed. The log between says how fast the weights were read
and what the pool and the CUDA graphs take.
"""

import argparse
import gc
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor, PendingStep
from quire.engine.llm import LLM
from quire.engine.models.outline import Outline
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.weights.checkpoint import read_checkpoint

BLOCK_SIZE = 16
# Sequences that generate, their tokens, how many of these all have in common, and tokens of a prompt beside them.
STEPS = (
    ("decode 1, context 1,024", 1, 1024, 0, 0),
    ("decode 16", 16, 1024, 0, 0),
    ("decode 64", 64, 1024, 0, 0),
    ("decode 256", 256, 1024, 0, 0),
    ("decode 1,024, context 190", 1024, 190, 0, 0),
    ("decode 64, context 8,192 of which 8,064 shared", 64, 8192, 8064, 0),
    ("decode 256, context 4,096 of which 3,968 shared", 256, 4096, 3968, 0),
    ("decode 64, context 1,024, and 128 tokens of a prompt", 64, 1024, 0, 128),
)
# Of a number, of layers and of the output layer; those of int4 have scale and zero for every 32.
BITS = {"none": (16, 16), "int8": (8, 8), "fp8": (8, 16), "int4": (5.5, 8)}
# Of a number of a key or value.
KV_BYTES = {"auto": 2, "fp8": 1}
# Tokens in and out, and requests.
END_TO_END = ((128, 128, 1024), (1000, 1000, 256), (1000, 1000, 1024), (2048, 128, 512))


@dataclass(frozen=True)
class Coding:
    """How weights, keys and values are stored."""

    weights: str
    cache: str

    def weight_bytes(self, sizes: Outline) -> float:
        """That a step of generation reads."""
        of_layers, of_head = BITS[self.weights]
        return of_layers / 8 * sizes.num_linear + of_head / 8 * sizes.num_head

    def kv_bytes(self, sizes: Outline) -> float:
        """Of a token."""
        return KV_BYTES[self.cache] * sizes.kv_numbers


@dataclass(frozen=True)
class Ceilings:
    """Bytes per second that are read or written, and operations per second."""

    bytes: float
    operations: float


def write_model(folder: Path) -> Path:
    """Llama-3.1-8B's shape, random bfloat16 weights, the demo model's tokenizer."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=16_384, rope_theta=500_000.0, tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    del model
    torch.cuda.empty_cache()
    return folder


def seconds(call: object, repeats: int = 20) -> float:
    """Median of the device's own times."""
    assert callable(call)
    times = []
    for i in range(repeats + 3):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        ended.synchronize()
        if i >= 3:
            times.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times)


def measure_ceilings() -> Ceilings:
    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return Ceilings(copy, 2 * 8192**3 / seconds(lambda: a @ b))


class Runner:
    """Drives an executor's slots directly, two steps ahead."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._step = 0

    def start(self, slot: int, num_tokens: int, num_computed: int, table: Sequence[int]) -> SequenceStart:
        tokens = np.random.default_rng(slot).integers(3, 2000, num_tokens).astype(np.int32)
        return SequenceStart(
            slot=slot,
            token_ids=tokens,
            num_computed=num_computed,
            block_table=np.array(table, np.int32),
            num_prompt=num_tokens,
            sampling=SamplingParams(temperature=0, seed=0),
        )

    def launch(self, starts: list[SequenceStart], context: dict[int, int], generation: int) -> PendingStep:
        """Slots of context with their tokens; generation in the first slots."""
        self._step += 1
        nothing = np.empty(0, np.int32)
        slots, tokens = (np.array(list(each), np.int32) for each in (context, context.values()))
        plan = StepPlan(
            step=self._step, copies=np.empty((0, 2), np.int32), starts=tuple(starts), append_slots=nothing,
            append_blocks=nothing, context_slots=slots, context_tokens=tokens,
            generation_slots=np.arange(generation, dtype=np.int32),
        )  # fmt: skip
        return self._executor.launch(plan)

    def decode(self, batch: int, context: int, steps: int, shared: int = 0, chunk: int = 0) -> tuple[float, float]:
        """(seconds of a step, share of the time in which the GPU computes) with two steps in flight.

        Args:
            shared: tokens that all have in common.
            chunk: tokens of a prompt that each step computes beside.
        """
        last = context + steps + 8
        common, own = shared // BLOCK_SIZE, -(-(last - shared) // BLOCK_SIZE)
        tables = [[*range(common), *range(common + i * own, common + (i + 1) * own)] for i in range(batch)]
        starts = [self.start(slot, context, context - 1, table) for slot, table in enumerate(tables)]
        self.launch(starts, dict.fromkeys(range(batch), 1), 0).result()
        beside = {batch: chunk} if chunk else {}
        # The last chunk must not be the prompt's last: nothing is sampled of it.
        prompt = chunk * (steps + 7)
        first = common + batch * own
        table = range(first, first + -(-prompt // BLOCK_SIZE))
        for i in range(5):
            self.launch([self.start(batch, prompt, 0, table)] if chunk and i == 0 else [], beside, batch).result()
        computed, ahead = 0, self.launch([], beside, batch)
        began = time.perf_counter()
        for _ in range(steps):
            behind, ahead = ahead, self.launch([], beside, batch)
            computed += behind.result().compute_us
        elapsed = time.perf_counter() - began
        ahead.result()
        return elapsed / steps, computed / 1e6 / elapsed

    def prefill(self, tokens: int, steps: int) -> float:
        times = []
        for _ in range(steps + 1):
            start = self.start(0, tokens, 0, range(-(-(tokens + 1) // BLOCK_SIZE)))
            times.append(self.launch([start], {0: tokens}, 0).result().compute_us / 1e6)
        return statistics.median(times[1:])


def rate(ceilings: Ceilings, coding: Coding) -> float:
    """Operations per second: fp8 tensor cores do twice as many."""
    return ceilings.operations * (2 if coding.weights == "fp8" else 1)


def whole_bound(sizes: Outline, ceilings: Ceilings, coding: Coding, num_in: int, num_out: int, count: int) -> float:
    """Seconds of all requests at once: their contexts, then steps that all generate in, each bound by its operations
    or by the bytes of weights, keys and values."""
    context = sizes.operations(count * num_in, num_in / 2, count) / rate(ceilings, coding)
    length = num_in + num_out / 2
    moved = coding.weight_bytes(sizes) + count * length * coding.kv_bytes(sizes)
    step = max(moved / ceilings.bytes, sizes.operations(count, length, count) / rate(ceilings, coding))
    return context + (num_out - 1) * step


def step_rows(model: Path, ceilings: Ceilings, quick: bool, coding: Coding) -> None:
    sizes = read_checkpoint(model).outline
    began = time.perf_counter()
    executor = Executor(
        ExecutorConfig(
            model=str(model), dtype="bfloat16", quantization=coding.weights, kv_cache_dtype=coding.cache,
            num_blocks=20_000, max_batch_size=1024,
        )
    )  # fmt: skip
    print(f"executor ready in {time.perf_counter() - began:.1f} s", flush=True)
    runner = Runner(executor)
    print("\n| step | ms | bound, ms | of it | GPU computes |\n|---|---|---|---|---|")
    steps = 20 if quick else 100
    for name, batch, context, shared, chunk in STEPS:
        took, busy = runner.decode(batch, context, min(steps, 14_000 // (chunk or 1)), shared, chunk)
        executor.reset()
        read = shared + batch * (context - shared)
        moved = coding.weight_bytes(sizes) + read * coding.kv_bytes(sizes)
        operations = sizes.operations(batch, context, batch) + sizes.operations(chunk, chunk * steps / 2, 0)
        bound = max(moved / ceilings.bytes, operations / rate(ceilings, coding))
        cells = f"{took * 1e3:.2f} | {bound * 1e3:.2f} | {bound / took:.0%} | {busy:.1%}"
        print(f"| {name} | {cells} |", flush=True)
    for tokens in (2048, 8192):
        took = runner.prefill(tokens, 3 if quick else 10)
        executor.reset()
        bound = sizes.operations(tokens, tokens / 2, 1) / rate(ceilings, coding)
        print(f"| prefill {tokens:,} | {took * 1e3:.2f} | {bound * 1e3:.2f} | {bound / took:.0%} | |", flush=True)


def end_to_end(model: Path, ceilings: Ceilings, quick: bool, coding: Coding) -> None:
    sizes = read_checkpoint(model).outline
    scheduler = SchedulerConfig(max_waiting_requests=4096)
    settings: dict[str, Any] = {"max_batch_size": 1024, "max_model_len": 4096}
    settings |= {"dtype": "bfloat16", "quantization": coding.weights, "kv_cache_dtype": coding.cache}
    with LLM(str(model), scheduler=scheduler, **settings) as llm:
        print("\n| in/out | requests | seconds | output tokens/s | bound, s | of it |\n|---|---|---|---|---|---|")
        for num_in, num_out, count in END_TO_END:
            count = count // 8 if quick else count
            random = np.random.default_rng(num_in)
            prompts = [random.integers(3, 2000, num_in).tolist() for _ in range(count)]
            params = SamplingParams(temperature=0, max_tokens=num_out, ignore_eos=True)
            llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
            began = time.perf_counter()
            answers = llm.generate(prompts, params)
            took = time.perf_counter() - began
            assert all(len(answer.token_ids) == num_out for answer in answers)
            bound = whole_bound(sizes, ceilings, coding, num_in, num_out, count)
            cells = f"{count} | {took:.2f} | {count * num_out / took:,.0f} | {bound:.2f} | {bound / took:.0%}"
            print(f"| {num_in}/{num_out} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--quick", action="store_true", help="few steps and requests: does it run at all")
    parser.add_argument("--quantization", choices=BITS, default="none")
    parser.add_argument("--kv-cache-dtype", choices=KV_BYTES, default="auto")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: there is no usable GPU")
    # What is loaded and captured, and what that takes.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("quire.engine.model").setLevel(logging.INFO)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    ceilings = measure_ceilings()
    print(
        f"copy {ceilings.bytes / 1e12:.2f} TB/s, bfloat16 product {ceilings.operations / 1e12:.0f} TFLOP/s", flush=True
    )
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or write_model(Path(scratch))
        coding = Coding(args.quantization, args.kv_cache_dtype)
        step_rows(model, ceilings, args.quick, coding)
        gc.collect()
        torch.cuda.empty_cache()
        end_to_end(model, ceilings, args.quick, coding)


if __name__ == "__main__":
    main()
