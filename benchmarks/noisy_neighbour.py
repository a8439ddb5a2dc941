#!/usr/bin/env python3
"""Steps of the CPU executor beside processes that compute as well, against steps that have the cores to themselves.

  python benchmarks/noisy_neighbour.py MODEL_DIR [--neighbours 1] [--batches 1,8,32] [--context 160]

Alone and beside them in turns of ten steps. Two threads and one neighbour on two cores have two thirds of a core each.
Steps that lose nothing else take 1.5 times as long, and less where memory is their bound.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from cpu_step import CONTEXT_STEP, Stepper, Workload

from quire.engine.config import ExecutorConfig
from quire.engine.model.placement import place
from quire.engine.weights.checkpoint import read_checkpoint

TURN = 10


@contextmanager
def neighbours(count: int) -> Iterator[Callable[[bool], None]]:
    """Processes that do nothing but compute while the function given has last been called with True."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]

    def let_run(may_run: bool) -> None:
        for process in processes:
            process.send_signal(signal.SIGCONT if may_run else signal.SIGSTOP)

    try:
        yield let_run
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--neighbours", type=int, default=1)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    threads = torch.get_num_threads()
    config = ExecutorConfig(model=str(args.model), dtype="bfloat16", device="cpu", num_threads=threads)
    checkpoint = read_checkpoint(args.model)
    placement = place(config, checkpoint)
    print(f"{threads} threads on {os.cpu_count()} cores, {args.neighbours} neighbours")
    print("| step | alone, ms | beside them, ms | times |")
    print("|---|---|---|---|")
    workloads = [Workload(int(batch), args.context, False) for batch in args.batches.split(",")]
    with neighbours(args.neighbours) as let_run:
        for workload in [*workloads, Workload(1, CONTEXT_STEP, True)]:
            repeats = 2 * TURN * args.turns
            sizes = {"num_blocks": workload.batch * workload.blocks(repeats), "max_batch_size": workload.batch}
            step = workload.steps(Stepper(config.model_copy(update=sizes), checkpoint, placement), repeats)
            found: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(2 * args.turns):
                is_beside = turn % 2 == 1
                let_run(is_beside)
                found[is_beside] += [step() * 1e3 for _ in range(TURN)]
            alone, beside = statistics.median(found[False]), statistics.median(found[True])
            print(f"| {workload.name} | {alone:.1f} | {beside:.1f} | {beside / alone:.2f} |")


if __name__ == "__main__":
    main()
