#!/usr/bin/env python3
"""Times mixtures of experts on a CPU against what the machine can do.

  python benchmarks/cpu_experts.py [--tokens 1,64] [--repeats 30] [--hidden 1024] [--size 2816] [--experts 8]
                                   [--top-k 2] [--layers 14] [--dtype bfloat16] [--int8]

The default is the mixture of a model of about 1 B parameters of which each token uses a quarter. All layers run one
after the other, so that weights come from memory as in a step; every token chooses experts at random. A step must read
the weights of the experts that some token chose, and do two operations per weight and token. Ceilings are measured
before and behind every step, and the higher one counts, as in cpu_step.py. Every line has the median of the steps, the
fastest and the slowest, and the median, the middle half and the best of their shares of the bound.
"""

import argparse
import time

import numpy as np
import torch
from ceilings import Machine

from quire.kernels.activation import SILU
from quire.kernels.coded_weight import int8
from quire.kernels.experts import ExpertsShape, ExpertWeights
from quire.kernels.registry import kernel_suite

CPU = torch.device("cpu")
TURNS = 8  # choices of experts that take turns


class Mixture:
    """All layers of a model, and nothing but their experts."""

    def __init__(self, args: argparse.Namespace, dtype: torch.dtype) -> None:
        self.shape, self.top_k = ExpertsShape(args.experts, args.hidden, args.size), args.top_k
        suite = kernel_suite(args.kernels, CPU, dtype, args.threads)
        self.layers = [suite.experts(self.shape, SILU) for _ in range(args.layers)]
        for layer in self.layers:
            for expert in range(args.experts):
                gate_up = torch.randn(2 * args.size, args.hidden).to(dtype) / args.hidden**0.5
                down = torch.randn(args.hidden, args.size).to(dtype) / args.size**0.5
                layer.load(expert, ExpertWeights(*(int8(part) if args.int8 else part for part in (gate_up, down))))
        self.per_expert = 3 * args.hidden * args.size
        self.weight_bytes = 1 if args.int8 else dtype.itemsize

    def chosen(self, num_tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Experts and weights of every layer."""
        chosen = []
        for _ in self.layers:
            weights, ids = torch.rand(num_tokens, self.shape.num_experts).topk(self.top_k)
            chosen.append((ids, weights / weights.sum(dim=1, keepdim=True)))
        return chosen

    def step(self, x: torch.Tensor, chosen: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Seconds."""
        began = time.perf_counter()
        for layer, each in zip(self.layers, chosen, strict=True):
            layer(x, *each)
        return time.perf_counter() - began

    def work(self, chosen: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[int, int]:
        """Bytes that a step reads and its operations."""
        active = sum(ids.unique().numel() for ids, _ in chosen)
        rows = sum(ids.numel() for ids, _ in chosen)
        return active * self.per_expert * self.weight_bytes, 2 * rows * self.per_expert


def line(mixture: Mixture, num_tokens: int, machine: Machine, dtype: torch.dtype, repeats: int) -> str:
    x = torch.randn(num_tokens, mixture.shape.hidden).to(dtype)
    choices = [mixture.chosen(num_tokens) for _ in range(TURNS)]
    seconds, shares, read, multiplied = [], [], [], []
    before = machine.ceilings()
    for repeat in range(repeats):
        chosen = choices[repeat % TURNS]
        mixture.step(x, choices[repeat % TURNS - 1])  # so that caches hold what they hold between steps
        seconds.append(mixture.step(x, chosen))
        after = machine.ceilings()
        ceilings, (moved, operations) = before.highest(after), mixture.work(chosen)
        shares.append(max(moved / ceilings.read, operations / ceilings.multiply) / seconds[-1])
        read.append(ceilings.read / 1e9)
        multiplied.append(ceilings.multiply / 1e9)
        before = after
    low, half, high = np.percentile(shares, (25, 50, 75))
    times = "".join(f"{found(seconds) * 1e3:9.2f}" for found in (np.median, min, max))
    middle = f"{low:.0%} to {high:.0%}"
    return (
        f"{num_tokens:>6}{times}{np.median(read):8.1f}{np.median(multiplied):9.0f}{half:8.0%}{middle:>14}"
        f"{max(shares):7.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,8,64")
    parser.add_argument("--repeats", type=int, default=30)
    for name, value in (("hidden", 1024), ("size", 2816), ("experts", 8), ("top-k", 2), ("layers", 14)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--int8", action="store_true", help="weights in 8-bit integers")
    parser.add_argument("--kernels", choices=("native", "torch"), default="native")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    machine = Machine(dtype, args.threads)
    mixture = Mixture(args, dtype)
    total = mixture.per_expert * args.experts * args.layers
    print(f"{total / 1e9:.2f} B parameters, {total * args.top_k / args.experts / 1e9:.2f} B of each token")
    print(
        f"{'tokens':>6}{'ms':>9}{'min':>9}{'max':>9}{'GB/s':>8}{'GFLOP/s':>9}{'bound':>8}{'middle half':>14}{'best':>7}"
    )
    for num_tokens in map(int, args.tokens.split(",")):
        print(line(mixture, num_tokens, machine, dtype, args.repeats), flush=True)


if __name__ == "__main__":
    main()
