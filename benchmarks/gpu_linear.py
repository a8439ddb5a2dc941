#!/usr/bin/env python3
"""The four products of a layer of Llama-3.1-8B by their rows, for each way in which weights are stored.

  python benchmarks/gpu_linear.py

Times are microseconds, medians of replayed graphs, in which matrices take turns so that none is found in L2. For fp8
the rows are rounded already, as norms and gates do that. "cuBLASLt" has a scale for each row and each result.
"""

import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

from quire.kernels.coded_weight import CodedWeight, fp8, int4, int8
from quire.kernels.cuda.float8_product import float8_product, most_rows
from quire.kernels.cuda.float8_rows import float8_rows
from quire.kernels.cuda.integers import integer_linear
from quire.kernels.cuda.linear import CudaLinear
from quire.kernels.cuda.row_product import row_product

SHAPES: Final = ((6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336))
ROWS: Final = (1, 16, 32, 64, 128, 256, 1024, 8192)
# Of matrices that take turns: several times what L2 holds.
TURN_BYTES: Final = 200e6
DTYPE: Final = torch.bfloat16

Product: TypeAlias = Callable[[Tensor], Callable[[], Tensor] | None]
"""Of rows, what multiplies them; None: they are too many, or too few."""


def microseconds(calls: list[Callable[[], Tensor]]) -> float:
    """Of one of the calls."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(12):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) * 1e3 / len(calls))
    return statistics.median(times[2:])


def groups_of_128(weight: Tensor) -> CodedWeight:
    """Random 4-bit codes: only the bytes count."""
    codes = torch.randint(-8, 8, weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.rand(len(weight), weight.shape[1] // 128, device=weight.device)
    return CodedWeight(codes, scales, DTYPE, torch.zeros_like(scales), bits=4)


def wide(weight: Tensor) -> Product:
    linear = CudaLinear(weight, None, DTYPE)
    return lambda x: lambda: linear(x)


def integers(coded: CodedWeight) -> Product:
    linear = integer_linear(coded, None, DTYPE)
    assert linear is not None
    return lambda x: lambda: linear(x)


def float8_library(weight: Tensor) -> Product:
    coded = fp8(weight)
    codes, scales = coded.codes, coded.scales.T.contiguous()

    def product(x: Tensor) -> Callable[[], Tensor] | None:
        rows, row_scales = float8_rows(x)
        options = {"scale_a": row_scales, "scale_b": scales, "out_dtype": DTYPE, "use_fast_accum": True}
        return None if len(x) == 1 else lambda: torch._scaled_mm(rows, codes.T, **options)

    return product


def float8_ours(weight: Tensor) -> Product:
    coded = fp8(weight)
    codes, scales = coded.codes, coded.scales.T.contiguous()

    def product(x: Tensor) -> Callable[[], Tensor] | None:
        rows, row_scales = float8_rows(x)
        if len(x) == 1:
            return lambda: row_product(x, codes, None, DTYPE, scales)
        if len(x) > most_rows(x.device):
            return None
        return lambda: float8_product(rows, row_scales, codes, scales, None, DTYPE)

    return product


WAYS: Final[Mapping[str, tuple[float, Callable[[Tensor], Product]]]] = {
    "bfloat16": (2, wide),
    "fp8, cuBLASLt": (1, float8_library),
    "fp8, ours": (1, float8_ours),
    "int8": (1, lambda weight: integers(int8(weight))),
    "int4, groups of 128": (0.5, lambda weight: integers(groups_of_128(weight))),
    "int4, groups of 32": (0.5, lambda weight: integers(int4(weight))),
}
"""By their names: bytes of a number, and the product with a matrix."""


def layer(number_bytes: float, make: Callable[[Tensor], Product]) -> list[float | None]:
    """Microseconds of all four products, for each number of rows."""
    totals: list[float | None] = [0.0] * len(ROWS)
    for out, size in SHAPES:
        count = int(TURN_BYTES / (out * size * number_bytes)) + 2
        products = [make(torch.randn(out, size, dtype=DTYPE, device="cuda")) for _ in range(count)]
        for at, num_rows in enumerate(ROWS):
            x = torch.randn(num_rows, size, dtype=DTYPE, device="cuda")
            calls = [call for product in products if (call := product(x)) is not None]
            before = totals[at]
            totals[at] = before + microseconds(calls) if calls and before is not None else None
    return totals


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_linear.py: there is no usable GPU")
    print(torch.cuda.get_device_name())
    columns = [layer(*way) for way in WAYS.values()]
    print(f"\n| rows | {' | '.join(WAYS)} |\n{'|---' * (len(WAYS) + 1)}|")
    for num_rows, *times in zip(ROWS, *columns, strict=True):
        cells = ["" if time is None else f"{time:.1f}" for time in times]
        print(f"| {num_rows:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
