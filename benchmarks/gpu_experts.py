#!/usr/bin/env python3
"""Mixtures of experts on a GPU: our kernels, torch._grouped_mm and FlashInfer, against what the card can do.

  python benchmarks/gpu_experts.py [--tokens 1,4,16,64,256,2048]

One layer in bfloat16 in the shapes of Qwen3-30B-A3B and Mixtral-8x7B; every token chooses experts at random. Times are
microseconds of a layer, medians of replayed CUDA graphs in which layers take turns, so that no weights are found in L2;
behind them the share of the bound. A layer must read the weights of the experts that some token chose, and do two
operations per weight and token, at the rates of a copy and of a matrix product. `rows` and `groups` are our kernels of
few rows and of many. Results are compared with the reference first; `wrong` stands where they differ.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from flashinfer.autotuner import autotune
from flashinfer.fused_moe import cutlass_fused_moe
from gpu import Ceilings, measure_ceilings
from torch import Tensor

from quire.kernels.activation import SILU
from quire.kernels.cuda.activation import activate
from quire.kernels.cuda.expert_groups import grouped_experts, order
from quire.kernels.cuda.expert_rows import row_experts
from quire.kernels.cuda.expert_stack import ExpertStack
from quire.kernels.experts import ExpertsShape, ExpertWeights
from quire.kernels.reference import TORCH_SUITE

# Sizes of a layer, and how many experts a token passes through.
SHAPES: Final = {
    "Qwen3-30B-A3B": (ExpertsShape(num_experts=128, hidden=2048, size=768), 8),
    "Mixtral-8x7B": (ExpertsShape(num_experts=8, hidden=4096, size=14336), 2),
}
TURNS: Final = 3
MOST_TOKENS_BY_ROW: Final = 64
TOLERANCE: Final = 0.03  # of the largest result


@dataclass(frozen=True)
class Layer:
    """`up_gate` is FlashInfer's order: the rows of what is gated, then of the gate."""

    gate_up: Tensor
    up_gate: Tensor
    down: Tensor

    @classmethod
    def random(cls, shape: ExpertsShape) -> "Layer":
        def matrices(*sizes: int) -> Tensor:
            return torch.randn(*sizes, dtype=torch.bfloat16, device="cuda") / sizes[-1] ** 0.5

        gate_up = matrices(shape.num_experts, 2 * shape.size, shape.hidden)
        gate, up = gate_up.chunk(2, dim=1)
        return cls(gate_up, torch.cat((up, gate), dim=1), matrices(shape.num_experts, shape.hidden, shape.size))


@dataclass(frozen=True)
class Choice:
    """Tokens, and the experts of each."""

    x: Tensor
    ids: Tensor
    weights: Tensor

    @classmethod
    def random(cls, shape: ExpertsShape, top_k: int, num_tokens: int) -> "Choice":
        weights, ids = torch.rand(num_tokens, shape.num_experts, device="cuda").topk(top_k)
        x = torch.randn(num_tokens, shape.hidden, dtype=torch.bfloat16, device="cuda")
        return cls(x, ids.to(torch.int32), weights / weights.sum(dim=1, keepdim=True))

    def bound(self, shape: ExpertsShape, ceilings: Ceilings) -> float:
        """Seconds."""
        per_expert = 3 * shape.hidden * shape.size
        moved, operations = 2 * per_expert * len(set(self.ids.flatten().tolist())), 2 * per_expert * self.ids.numel()
        return max(moved / ceilings.bytes, operations / ceilings.operations)


Candidate: TypeAlias = Callable[[Layer, Choice], Tensor]


def stacks(layer: Layer) -> tuple[ExpertStack, ExpertStack]:
    return ExpertStack(layer.gate_up, None, None), ExpertStack(layer.down, None, None)


def by_row(layer: Layer, choice: Choice) -> Tensor:
    return row_experts(choice.x, choice.ids, choice.weights, *stacks(layer), SILU)


def in_groups(layer: Layer, choice: Choice) -> Tensor:
    return grouped_experts(choice.x, choice.ids, choice.weights, *stacks(layer), SILU)


def torch_grouped(layer: Layer, choice: Choice) -> Tensor:
    top_k = choice.ids.shape[1]
    rows = order(choice.ids, len(layer.down))
    ends, pairs = rows.firsts + rows.counts, rows.pairs.long()
    product: Any = torch._grouped_mm
    gated = activate(product(choice.x[pairs // top_k], layer.gate_up.transpose(1, 2), offs=ends), SILU)
    parts = torch.empty((len(pairs), choice.x.shape[1]), dtype=gated.dtype, device=gated.device)
    parts[pairs] = product(gated, layer.down.transpose(1, 2), offs=ends)
    return (parts.view(-1, top_k, parts.shape[1]) * choice.weights[..., None]).sum(dim=1).to(choice.x.dtype)


def flashinfer(layer: Layer, choice: Choice) -> Tensor:
    out = torch.empty_like(choice.x)
    cutlass_fused_moe(
        choice.x, choice.ids, choice.weights, layer.up_gate, layer.down, choice.x.dtype, quant_scales=[], output=out
    )
    return out


CANDIDATES: Final[dict[str, Candidate]] = {
    "rows": by_row,
    "groups": in_groups,
    "torch._grouped_mm": torch_grouped,
    "FlashInfer": flashinfer,
}


def is_right(shape: ExpertsShape, layer: Layer, choice: Choice, found: Tensor) -> bool:
    reference = TORCH_SUITE.experts(shape, SILU)
    for expert in range(shape.num_experts):
        reference.load(expert, ExpertWeights(layer.gate_up[expert], layer.down[expert]))
    wanted = reference(choice.x, choice.ids, choice.weights)
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def seconds(call: Callable[[], object]) -> float:
    """Of one of the `TURNS` that the call does."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(23):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1e3 / TURNS)
    return statistics.median(times[3:])


def cell(candidate: Candidate, shape: ExpertsShape, layers: list[Layer], choices: list[Choice], bound: float) -> str:
    if candidate is by_row and len(choices[0].x) > MOST_TOKENS_BY_ROW:
        return "-"
    turns = list(zip(layers, choices, strict=True))
    with autotune(True):
        found = [candidate(*turn) for turn in turns]
    if not is_right(shape, *turns[0], found[0]):
        return "wrong"
    took = seconds(lambda: [candidate(*turn) for turn in turns])
    return f"{took * 1e6:.1f} ({bound / took:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,4,16,64,256,2048")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_experts.py: there is no usable GPU")
    ceilings = measure_ceilings()
    rates = f"copies at {ceilings.bytes / 1e12:.2f} TB/s, products at {ceilings.operations / 1e12:.0f} TFLOP/s"
    print(f"{torch.cuda.get_device_name()}, {rates}")
    for name, (shape, top_k) in SHAPES.items():
        layers = [Layer.random(shape) for _ in range(TURNS)]
        print(f"\n| {name}, tokens | bound | {' | '.join(CANDIDATES)} |\n|---|---|{'---|' * len(CANDIDATES)}")
        for num_tokens in map(int, args.tokens.split(",")):
            choices = [Choice.random(shape, top_k, num_tokens) for _ in layers]
            bound = statistics.mean(choice.bound(shape, ceilings) for choice in choices)
            cells = [cell(candidate, shape, layers, choices, bound) for candidate in CANDIDATES.values()]
            print(f"| {num_tokens:,} | {bound * 1e6:.1f} | {' | '.join(cells)} |", flush=True)
        del layers
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
