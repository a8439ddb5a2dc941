#!/usr/bin/env python3
"""Times the kernels that a step of the CPU executor is made of: products, attention and norms.

  python benchmarks/cpu_kernels.py [--rows 1,8,64,128,512] [--repeats 10] [--int8 | --int4]

The shapes are those of a 135M Llama in bfloat16. All layers run one after the other, so weights and cache come from
memory as in a step. Products: milliseconds of the four of every layer, and the rate. Attention: milliseconds of all
layers; bytes are those of every sequence's keys and values, so that a common prefix counts for each of them. Norms:
microseconds of one that adds a residual.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.coded_weight import CODINGS, Weight
from quire.kernels.registry import kernel_suite
from quire.kernels.suite import KernelSuite

CPU = torch.device("cpu")
NUM_LAYERS, BLOCK_SIZE = 30, 16
NUM_QO, NUM_KV, HEAD_DIM = 9, 3, 64
HIDDEN, INNER = 576, 1536
PREFIX = 1024
# Of a weight; those of scales and zeros are left out.
WEIGHT_BYTES = {None: 2, "int8": 1, "int4": 0.5}


@dataclass(frozen=True)
class Batch:
    """`num_rows` sequences that compute `new` tokens each, behind `shared` common ones and `own` of their own."""

    num_rows: int
    new: int
    own: int
    shared: int = 0

    @property
    def name(self) -> str:
        common = f", {self.shared:,} in common" if self.shared else ""
        return f"{self.num_rows} x {self.new} new behind {self.own + self.shared:,}{common}"

    @property
    def length(self) -> int:
        return self.shared + self.own + self.new

    def paged(self) -> PagedBatch:
        """Every block but those of the common tokens is a row's own."""
        num_shared = self.shared // BLOCK_SIZE
        num_own = -(-self.length // BLOCK_SIZE) - num_shared
        tables = [
            [*range(num_shared), *range(first, first + num_own)]
            for first in range(num_shared, num_shared + self.num_rows * num_own, num_own)
        ]
        blocks = np.array(tables, np.int32).ravel()
        return PagedBatch(
            qo_indptr=np.arange(self.num_rows + 1, dtype=np.int32) * self.new,
            kv_indptr=np.arange(self.num_rows + 1, dtype=np.int32) * (num_shared + num_own),
            kv_indices=blocks,
            block_ids=torch.from_numpy(blocks),
            kv_lens=np.full(self.num_rows, self.length, np.int32),
            positions=torch.arange(self.length - self.new, self.length).repeat(self.num_rows),
            slot_mapping=torch.zeros(0, dtype=torch.int64),
        )


BATCHES = (
    Batch(1, 1, 1055), Batch(64, 1, 159), Batch(64, 1, 1055), Batch(64, 1, 31, PREFIX), Batch(4, 128, 0),
    Batch(1, 512, 0), Batch(16, 32, 0, PREFIX),
)  # fmt: skip


def milliseconds(call: Callable[[], None], repeats: int) -> float:
    """Median."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def print_products(suite: KernelSuite, all_rows: list[int], repeats: int, coding: str | None) -> None:
    def weight(outputs: int, inputs: int) -> Weight:
        dense = (torch.randn(outputs, inputs) / inputs**0.5).bfloat16()
        return dense if coding is None else CODINGS[coding](dense)

    makers = (suite.linear, suite.linear, suite.gated_linear, suite.linear)
    shapes = (((NUM_QO + 2 * NUM_KV) * HEAD_DIM, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER))
    products = [
        [maker(weight(*shape), None, torch.bfloat16) for _ in range(NUM_LAYERS)]
        for maker, shape in zip(makers, shapes, strict=True)
    ]
    weights = NUM_LAYERS * sum(outputs * inputs for outputs, inputs in shapes)
    print(f"{'products of':36}{'ms':>9}{'GFLOP/s':>9}{'GB/s':>7}")
    for rows in all_rows:
        inputs = [torch.randn(rows, depth).bfloat16() for _, depth in shapes]

        def layers(inputs: list[torch.Tensor] = inputs) -> None:
            for layer in zip(*products, strict=True):
                for product, x in zip(layer, inputs, strict=True):
                    product(x)

        took = milliseconds(layers, repeats)
        rate, moved = 2 * weights * rows / took / 1e6, WEIGHT_BYTES[coding] * weights / took / 1e6
        print(f"{rows:>4} rows{'':27}{took:9.2f}{rate:9.0f}{moved:7.1f}")


def print_attention(suite: KernelSuite, repeats: int) -> None:
    num_blocks = max(int(batch.paged().kv_indices.max()) for batch in BATCHES) + 1
    kv = suite.zeros((NUM_LAYERS, num_blocks, 2, BLOCK_SIZE, NUM_KV, HEAD_DIM), torch.bfloat16, CPU).normal_()
    backend = suite.attention(AttentionSpec(NUM_QO, NUM_KV, HEAD_DIM, BLOCK_SIZE, torch.bfloat16, CPU))
    print(f"\n{'attention of':36}{'ms':>9}{'':9}{'GB/s':>7}")
    for batch in BATCHES:
        backend.plan(batch.paged())
        q = torch.randn(batch.num_rows * batch.new, NUM_QO, HEAD_DIM).bfloat16()

        def layers(q: torch.Tensor = q) -> None:
            for layer in kv:
                backend.run(layer, q)

        took = milliseconds(layers, repeats)
        moved = NUM_LAYERS * batch.num_rows * batch.length * 2 * NUM_KV * HEAD_DIM * kv.itemsize
        print(f"{batch.name:36}{took:9.2f}{'':9}{moved / took / 1e6:7.1f}")


def print_norms(suite: KernelSuite, all_rows: list[int], repeats: int) -> None:
    weight = torch.ones(HIDDEN).bfloat16()
    print(f"\n{'norms of':36}{'us':>9}")
    for rows in all_rows:
        x, residual = torch.randn(2, rows, HIDDEN).bfloat16()

        def norms(x: torch.Tensor = x, residual: torch.Tensor = residual) -> None:
            for _ in range(2 * NUM_LAYERS):
                suite.add_rms_norm(x, residual, weight, 1e-5)

        print(f"{rows:>4} rows{'':27}{milliseconds(norms, repeats) / (2 * NUM_LAYERS) * 1e3:9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,16,64,128,512")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int)
    codings = parser.add_mutually_exclusive_group()
    for name in ("int8", "int4"):
        codings.add_argument(f"--{name}", dest="coding", action="store_const", const=name, help=f"weights in {name}")
    args = parser.parse_args()
    suite = kernel_suite("native", CPU, torch.bfloat16, args.threads)
    all_rows = [int(rows) for rows in args.rows.split(",")]
    print_products(suite, all_rows, args.repeats, args.coding)
    print_attention(suite, args.repeats)
    print_norms(suite, all_rows, args.repeats)


if __name__ == "__main__":
    main()
