#!/usr/bin/env python3
"""Times single steps of the CPU executor against what the machine can do, and says where the time goes.

  python benchmarks/cpu_step.py MODEL_DIR [--dtype auto] [--quantization int8] [--batches 1,64] [--context 1024]

Ceilings are the rates at which the cores read memory (PyTorch's sum over 512 MiB) and multiply matrices (PyTorch's
product at its best shape). On a shared machine they change from second to second, so they are measured before and
behind every step, and the higher one counts. A generation step must read all weights except the embedding, and the keys
and values of its sequences. A context step must do two operations per weight and token. Every line has the
median of --repeats steps, the fastest and the slowest. Then come median and middle half of their shares of the bound.
The shares are of steps whose operations are called and timed one by one. `host` is the rest of such a step.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from ceilings import Ceilings, Machine
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.model.decoder import Decoder
from quire.engine.model.model_engine import ModelEngine
from quire.engine.model.placement import Placement, place
from quire.engine.model.slots import Slots
from quire.engine.models.outline import Outline
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.weights.checkpoint import Checkpoint, read_checkpoint
from quire.kernels.activation import SILU, Activation
from quire.kernels.attention import AttentionBackend, AttentionSpec, PagedBatch
from quire.kernels.coded_weight import Weight
from quire.kernels.linear import Linear
from quire.kernels.suite import KernelSuite

BLOCK_SIZE = 16
CONTEXT_STEP = 512
PARTS = ("linears", "attention", "other", "sampling")

Steps: TypeAlias = list[tuple[float, Ceilings]]


@dataclass
class Clock:
    """Seconds by part, summed over calls."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            began = time.perf_counter()
            result = call(*args)
            self.seconds[part] += time.perf_counter() - began
            return result

        return run


@dataclass
class TimedAttention:
    """An `AttentionBackend` with a clock."""

    backend: AttentionBackend
    clock: Clock

    def plan(self, batch: PagedBatch) -> None:
        self.clock.timed("attention", self.backend.plan)(batch)

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        self.clock.timed("other", self.backend.rotate_append)(layer_kv, q, k, v, cos_sin)

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor) -> None:
        self.clock.timed("other", self.backend.append)(layer_kv, k, v)

    def run(self, layer_kv: Tensor, q: Tensor, *, sinks: Tensor | None = None) -> Tensor:
        result: Tensor = self.clock.timed("attention", partial(self.backend.run, sinks=sinks))(layer_kv, q)
        return result


def timed_suite(suite: KernelSuite, clock: Clock) -> KernelSuite:
    def attention(spec: AttentionSpec) -> AttentionBackend:
        return TimedAttention(suite.attention(spec), clock)

    def linear(weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        return clock.timed("linears", suite.linear(weight, bias, out_dtype))

    others = {name: clock.timed("other", getattr(suite, name)) for name in ("take_rows", "rms_norm", "add_rms_norm")}

    def gated_linear(
        weight: Weight, bias: Tensor | None, out_dtype: torch.dtype, activation: Activation = SILU
    ) -> Linear:
        return clock.timed("linears", suite.gated_linear(weight, bias, out_dtype, activation))

    sample = clock.timed("sampling", suite.sample)
    return replace(
        suite,
        attention=attention,
        linear=linear,
        gated_linear=gated_linear,
        sample=sample,
        fuse_blocks=lambda shape, blocks: None,
        **others,
    )


class Stepper:
    """What an executor does in a step, from slots to tokens."""

    def __init__(self, config: ExecutorConfig, checkpoint: Checkpoint, placement: Placement) -> None:
        self._engine = ModelEngine(config, checkpoint, placement)
        self._decoder = Decoder(placement.kernels)
        self._slots = Slots(
            num_slots=config.max_batch_size,
            max_model_len=self._engine.max_model_len,
            block_size=config.block_size,
            num_blocks=self._engine.num_blocks,
            vocab_size=checkpoint.config.vocab_size,
            device=self._engine.device,
        )

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> float:
        """Seconds."""
        began = time.perf_counter()
        batch = self._slots.apply(plan)
        self._slots.advance(batch, self._decoder.decode(self._engine.forward(batch), batch)[0])
        return time.perf_counter() - began


@dataclass(frozen=True)
class Workload:
    """Sequences that generate after `context` tokens, or one that computes CONTEXT_STEP tokens at once."""

    batch: int
    context: int
    is_context: bool

    @property
    def name(self) -> str:
        return f"context {CONTEXT_STEP}" if self.is_context else f"decode {self.batch}"

    def blocks(self, repeats: int) -> int:
        return -(-(self.context + 2 * repeats + 8) // BLOCK_SIZE)

    def start(self, slot: int, repeats: int) -> SequenceStart:
        tokens = np.random.default_rng(slot).integers(3, 300, self.context).astype(np.int32)
        first = slot * self.blocks(repeats)
        table = np.arange(first, first + self.blocks(repeats), dtype=np.int32)
        computed = 0 if self.is_context else self.context - 1
        return SequenceStart(
            slot=slot,
            token_ids=tokens,
            num_computed=computed,
            block_table=table,
            num_prompt=len(tokens),
            sampling=SamplingParams(temperature=0, seed=0),
        )

    def plan(self, repeats: int, starts: bool) -> StepPlan:
        slots = np.arange(self.batch, dtype=np.int32)
        nothing = np.empty(0, np.int32)
        count = self.context if self.is_context else 1
        return StepPlan(
            step=0,
            copies=np.empty((0, 2), np.int32),
            starts=tuple(self.start(int(slot), repeats) for slot in slots) if starts else (),
            append_slots=nothing,
            append_blocks=nothing,
            context_slots=slots if starts else nothing,
            context_tokens=np.full(self.batch, count, np.int32) if starts else nothing,
            generation_slots=nothing if starts else slots,
        )

    def bound(self, model: Outline, itemsize: int, weight_size: float, ceilings: Ceilings) -> float:
        """Seconds that a step takes at least: for its bytes, or for its operations if they take longer."""
        tokens = self.context if self.is_context else self.batch
        keys = self.context / 2 if self.is_context else self.context
        kv_bytes = 0 if self.is_context else self.batch * self.context * model.kv_numbers * itemsize
        read = (model.num_linear + model.num_head) * weight_size + kv_bytes
        return max(read / ceilings.read, model.operations(tokens, keys, self.batch) / ceilings.multiply)

    def steps(self, stepper: Stepper, repeats: int) -> Callable[[], float]:
        """What runs one more step, the sequences being there; returns its seconds."""
        stepper.step(self.plan(repeats, starts=True))
        return lambda: stepper.step(self.plan(repeats, starts=self.is_context))


def beside_ceilings(step: Callable[[], float], machine: Machine, repeats: int) -> Steps:
    """Seconds of steps, each with the higher of the ceilings before and behind it."""
    found = []
    before = machine.ceilings()
    for _ in range(repeats):
        step()  # so that caches hold what they hold between steps, not what the ceilings left there
        seconds = step()
        after = machine.ceilings()
        found.append((seconds, before.highest(after)))
        before = after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--kernels", choices=("auto", "native", "torch"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    config = ExecutorConfig(
        model=str(args.model), dtype=args.dtype, device="cpu", kernels=args.kernels, quantization=args.quantization,
        num_threads=args.threads,
    )  # fmt: skip
    checkpoint = read_checkpoint(args.model)
    placement = place(config, checkpoint)
    dtype, bits = placement.dtype, {"none": 0, "int8": 8}[args.quantization]
    machine = Machine(dtype, args.threads)
    print(f"{dtype}, {args.threads} threads".removeprefix("torch."))
    print(f"{'step':14}{'ms':>8}{'min':>8}{'max':>8}{'GB/s':>7}{'GFLOP/s':>9}{'bound':>8}{'of it':>7}"
          + f"{'middle half':>14} " + "".join(f"{part:>11}" for part in (*PARTS, "host")))  # fmt: skip
    workloads = [Workload(int(batch), args.context, False) for batch in args.batches.split(",")]
    for workload in [*workloads, Workload(1, CONTEXT_STEP, True)]:
        sized = config.model_copy(
            update={"num_blocks": workload.batch * workload.blocks(args.repeats), "max_batch_size": workload.batch}
        )
        whole = workload.steps(Stepper(sized, checkpoint, placement), args.repeats)
        steps = beside_ceilings(whole, machine, args.repeats)
        bounds = [
            workload.bound(checkpoint.outline, dtype.itemsize, bits / 8 or dtype.itemsize, ceilings)
            for _, ceilings in steps
        ]
        clock = Clock()
        timed = replace(placement, kernels=timed_suite(placement.kernels, clock))
        composed = workload.steps(Stepper(sized, checkpoint, timed), args.repeats)
        clock.seconds.clear()
        total = sum(composed() for _ in range(args.repeats))
        print(line(workload.name, steps, bounds, [clock.seconds[part] / total for part in PARTS]))


def line(name: str, steps: Steps, bounds: Sequence[float], shares: Sequence[float]) -> str:
    seconds = [took for took, _ in steps]
    read = statistics.median(ceilings.read for _, ceilings in steps)
    multiply = statistics.median(ceilings.multiply for _, ceilings in steps)
    low, reached, high = np.percentile(np.divide(bounds, seconds), (25, 50, 75))
    times = "".join(f"{found(seconds) * 1e3:8.2f}" for found in (statistics.median, min, max))
    return (
        f"{name:14}{times}{read / 1e9:7.1f}{multiply / 1e9:9.0f}{statistics.median(bounds) * 1e3:8.2f}{reached:7.0%}"
        + f"{low:.0%} to {high:.0%}".rjust(14)
        + " "
        + "".join(f"{share:11.1%}" for share in (*shares, 1 - sum(shares)))
    )


if __name__ == "__main__":
    main()
