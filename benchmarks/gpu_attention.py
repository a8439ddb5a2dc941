#!/usr/bin/env python3
"""FlashInfer's kernels, our own, and layouts of the cache on one layer of Llama-3.1-8B: what our attention chooses by.

  python benchmarks/gpu_attention.py

NHD keeps the heads of a token together, HND the tokens of a head, inside a block of 16 tokens. Blocks lie anywhere.
Times are microseconds, medians of replayed graphs; steps with context run without one.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from flashinfer import BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper

from quire.kernels.attention import AttentionSpec
from quire.kernels.cuda.attention_decode import TritonDecode
from quire.kernels.cuda.attention_shared import SharedDecode, plan_tasks
from quire.kernels.cuda.shared_prefixes import shared_prefixes

NUM_QO, NUM_KV, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
LAYOUTS: Final = ("NHD", "HND")
# Caches that take turns, so that none is found in L2.
TURNS: Final = 4
DECODE: Final = (
    (1, 1024), (4, 1024), (16, 1024), (64, 1024), (256, 1024), (256, 1500), (1024, 190), (1, 65536), (16, 190)
)  # fmt: skip
# Rows, tokens that they share, and tokens of their own.
SHARED: Final = ((16, 8192, 64), (64, 1024, 128), (64, 8192, 128), (256, 1024, 128), (256, 8192, 128), (1024, 2048, 64))
# New tokens and all tokens of each row.
CONTEXT: Final = {
    "8,192": [(8192, 8192)],
    "2,048": [(2048, 2048)],
    "64 x 128": [(128, 128)] * 64,
    "60 x 128 and 512 that generate": [(128, 128)] * 60 + [(1, 190)] * 512,
    "512 that generate": [(1, 190)] * 512,
}
SHAPE: Final = (NUM_QO, NUM_KV, HEAD_DIM, BLOCK_SIZE)
SPEC: Final = AttentionSpec(*SHAPE, torch.bfloat16, torch.device("cuda"))
FLOAT8_SPEC: Final = replace(SPEC, kv_dtype=torch.float8_e4m3fn)
TYPES: Final = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}


def microseconds(call: Callable[[], object], captured: bool) -> float:
    """Of one of the `TURNS` that the call does."""
    call()
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        call = graph.replay
    times = []
    for _ in range(12):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) * 1e3 / TURNS)
    return statistics.median(times[2:])


class Pages:
    """Rows of some lengths in blocks that lie anywhere; the first `shared` tokens of all are the same ones."""

    def __init__(self, lengths: list[int], shared: int = 0) -> None:
        common = shared // BLOCK_SIZE
        counts = [-(-length // BLOCK_SIZE) for length in lengths]
        self.num_blocks = common + sum(counts) - common * len(lengths)
        self.indptr = torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)
        blocks = torch.randperm(self.num_blocks, dtype=torch.int32, device="cuda")
        own = blocks[common:].split([count - common for count in counts])
        self.indices = torch.cat([torch.cat((blocks[:common], each)) for each in own])
        self.last = torch.tensor([(length - 1) % BLOCK_SIZE + 1 for length in lengths], dtype=torch.int32)

    def caches(self, layout: str) -> list[torch.Tensor]:
        inner = (BLOCK_SIZE, NUM_KV) if layout == "NHD" else (NUM_KV, BLOCK_SIZE)
        shape = (self.num_blocks, 2, *inner, HEAD_DIM)
        return [torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(TURNS)]


def decode(rows: int, length: int, workspace: torch.Tensor) -> str:
    pages = Pages([length] * rows)
    q = torch.randn(rows, NUM_QO, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    cells = []
    for layout in LAYOUTS:
        caches = pages.caches(layout)
        for tensor_cores in (True, False):
            wrapper = BatchDecodeWithPagedKVCacheWrapper(
                workspace,
                layout,
                use_cuda_graph=True,
                use_tensor_cores=tensor_cores,
                paged_kv_indptr_buffer=pages.indptr.cuda(),
                paged_kv_indices_buffer=pages.indices.clone(),
                paged_kv_last_page_len_buffer=pages.last.cuda(),
            )
            wrapper.plan(pages.indptr, pages.indices, pages.last, *SHAPE, **TYPES)
            cells.append(f"{microseconds(turns(wrapper, q, caches), True):.1f}")
    plan = (pages.indptr, pages.indices, pages.last)
    for spec in (SPEC, FLOAT8_SPEC):
        ours = TritonDecode(spec, *(torch.empty_like(part, device="cuda") for part in plan))
        ours.plan(*plan, *SHAPE)
        caches = [cache.to(spec.stored) for cache in pages.caches("NHD")]
        cells.append(f"{microseconds(turns(ours, q, caches), True):.1f}")
    return f"| {rows:,} x {length:,} | {' | '.join(cells)} |"


def shared_prefix(rows: int, shared: int, own: int, workspace: torch.Tensor) -> str:
    pages = Pages([shared + own] * rows, shared)
    q = torch.randn(rows, NUM_QO, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    plan = (pages.indptr, pages.indices, pages.last)
    flashinfer = BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
    flashinfer.plan(*plan, *SHAPE, **TYPES)
    alone = TritonDecode(SPEC, *(torch.empty_like(part, device="cuda") for part in plan))
    alone.plan(*plan, *SHAPE)
    indptr = pages.indptr.numpy()
    prefixes = shared_prefixes(indptr, pages.indices.cpu().numpy(), BLOCK_SIZE, 1)
    tasks = plan_tasks(prefixes, indptr, BLOCK_SIZE, NUM_QO // NUM_KV, NUM_KV)
    once = SharedDecode(SPEC, alone, tasks, pages.indices)
    caches = pages.caches("NHD")
    cells = [f"{microseconds(turns(each, q, caches), True):.1f}" for each in (flashinfer, alone, once)]
    return f"| {rows:,} x ({shared:,} + {own}) | {' | '.join(cells)} |"


def context(name: str, rows: list[tuple[int, int]], workspace: torch.Tensor) -> str:
    pages = Pages([length for _, length in rows])
    qo_indptr = torch.tensor([0, *np.cumsum([new for new, _ in rows])], dtype=torch.int32)
    q = torch.randn(int(qo_indptr[-1]), NUM_QO, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    cells = []
    for layout in LAYOUTS:
        caches = pages.caches(layout)
        for backend in ("fa3", "fa2"):
            wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, layout, backend=backend)
            wrapper.plan(qo_indptr, pages.indptr, pages.indices, pages.last, *SHAPE, causal=True, **TYPES)
            cells.append(f"{microseconds(turns(wrapper, q, caches), False):.1f}")
    return f"| {name} | {' | '.join(cells)} |"


def turns(wrapper: Any, q: torch.Tensor, caches: list[torch.Tensor]) -> Callable[[], object]:
    out = torch.empty_like(q)
    return lambda: [wrapper.run(q, cache, out=out) for cache in caches]


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_attention.py: there is no usable GPU")
    print(torch.cuda.get_device_name())
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    cores = " | ".join(f"{layout}, {how}" for layout in LAYOUTS for how in ("tensor cores", "CUDA cores"))
    print(f"\n| decode, rows x tokens | {cores} | ours | ours, fp8 |\n|---|---|---|---|---|---|---|")
    for rows, length in DECODE:
        print(decode(rows, length, workspace), flush=True)
    print("\n| decode, rows x (shared + own tokens) | FlashInfer | ours | ours, shared once |\n|---|---|---|---|")
    for rows, shared, own in SHARED:
        print(shared_prefix(rows, shared, own, workspace), flush=True)
    kernels = " | ".join(f"{layout}, {kernel}" for layout in LAYOUTS for kernel in ("FA3", "FA2"))
    print(f"\n| new tokens | {kernels} |\n|---|---|---|---|---|")
    for name, rows in CONTEXT.items():
        print(context(name, rows, workspace), flush=True)


if __name__ == "__main__":
    main()
