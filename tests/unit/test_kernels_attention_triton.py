"""Attention in Triton against attention written out: on a GPU, or in Triton's interpreter."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.attention_window import within_window
from support.paged_attention import PagedCase, paged_case

triton = pytest.importorskip("triton")

from quire.kernels.cuda.attention_context import TritonContext, context_tasks  # noqa: E402
from quire.kernels.cuda.attention_decode import TritonDecode, num_splits  # noqa: E402
from quire.kernels.cuda.attention_widened import is_worth_widening, widened  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter multiplies the bits of bfloat16.
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"scale": 0.3},
    {"scale": 0.5, "logits_soft_cap": 0.7},
    {"has_sinks": True},
    {"sliding_window": 20},
    {"sliding_window": 70, "has_sinks": True},
    {"kv_dtype": torch.float8_e4m3fn},
)

options = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "-".join(option) or "none")


def heads(num_qo: int, num_kv: int, head_dim: int) -> AttentionSpec:
    return AttentionSpec(num_qo, num_kv, head_dim, 16, DTYPE, DEVICE)


def computed(case: PagedCase, wrapper: Any, *qo_indptr: torch.Tensor) -> torch.Tensor:
    """Queries inside a merged projection; the result is written over what is not a number."""
    batch, spec = case.batch, case.spec
    last = torch.from_numpy((batch.kv_lens - 1) % spec.block_size + 1)
    sizes = (spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.block_size)
    wrapper.plan(*qo_indptr, torch.from_numpy(batch.kv_indptr), batch.block_ids, last, *sizes)
    q = torch.cat((case.q, torch.zeros_like(case.q[:, :1])), dim=1).to(DEVICE)[:, : spec.num_qo_heads]
    out = torch.full(case.q.shape, torch.nan, dtype=DTYPE, device=DEVICE)
    wrapper.run(q, case.layer_kv.to(DEVICE), out, case.sinks if case.sinks is None else case.sinks.to(DEVICE))
    return out


def windowed(case: PagedCase) -> PagedCase:
    """As the backend plans it, with what has left a window given away."""
    seen = within_window(case.given_away().batch, case.spec.sliding_window, case.spec.block_size)
    return replace(case, batch=seen)


def decoded(case: PagedCase) -> torch.Tensor:
    room = [torch.full((size,), -1, dtype=torch.int32, device=DEVICE) for size in (9, 99, 9)]
    return computed(case, TritonDecode(case.spec, *room))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


@options
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("spec", [heads(6, 2, 64), heads(4, 4, 128), heads(20, 1, 96)])
def test_decoding(spec: AttentionSpec, splits: int, option: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks lie anywhere, and what is behind a row's end is not a number. A part of a split row may have no token."""
    monkeypatch.setattr("quire.kernels.cuda.attention_decode.num_splits", lambda num_programs: splits)
    lengths = [(1, length) for length in (1, 16, 17, 63, 64, 65, 150)]
    case = windowed(paged_case(replace(spec, **option), lengths))
    close(decoded(case), case.expected())


@options
@pytest.mark.parametrize("spec", [heads(6, 2, 96), heads(2, 2, 64), heads(5, 1, 80)])
def test_context(spec: AttentionSpec, option: dict[str, Any]) -> None:
    """New tokens behind old ones."""
    case = windowed(paged_case(replace(spec, **option), [(70, 70), (1, 20), (5, 133), (2, 2)]))
    close(computed(case, TritonContext(case.spec), torch.from_numpy(case.batch.qo_indptr)), case.expected())


def test_few_rows_are_split() -> None:
    assert [num_splits(count) for count in (1, 8, 16, 17, 128, 256, 257, 9999)] == [64, 64, 32, 16, 4, 2, 1, 1]


def test_context_is_cut_into_tiles_the_longest_first() -> None:
    tasks = context_tasks(*(np.array(each, np.int32) for each in ([0, 100, 101], [0, 7, 20], [100, 200])), groups=3)
    assert tasks.tolist() == [[100, 1, 0, 7, 200], [0, 100, 2, 0, 100], [0, 100, 1, 0, 100], [0, 100, 0, 0, 100]]


@pytest.mark.parametrize("shape", [(3, 2, 16, 2, 8), (5, 2, 16, 8, 40)])
def test_blocks_of_an_fp8_cache_are_widened(shape: tuple[int, ...]) -> None:
    """Every number is exact."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    layer_kv = codes.view(torch.float8_e4m3fn).to(DEVICE)
    blocks = torch.tensor([2, 0, 2], dtype=torch.int32, device=DEVICE)
    wanted = layer_kv.to(DTYPE)[blocks.long()]
    number = ~wanted.isnan()
    assert torch.equal(widened(layer_kv, blocks, DTYPE)[number], wanted[number])
    assert widened(layer_kv, blocks[:0], DTYPE).shape == (0, *shape[1:])


@pytest.mark.parametrize(
    ("lengths", "worth"),
    [([(64, 64)], True), ([(63, 63)], False), ([(63, 63), (70, 70)], True), ([(1, 1)] * 9 + [(65, 4096)], True),
     ([(2, 5000), (64, 4096)], False), ([(128, 1 << 17)], True), ([(128, (1 << 17) + 1)], False)],
)  # fmt: skip
def test_context_is_widened_for_many_queries(lengths: list[tuple[int, int]], worth: bool) -> None:
    """And as long as there is room."""
    counts, kv_lens = (np.array(each, np.int32) for each in zip(*lengths, strict=True))
    none = torch.empty(0)
    batch = PagedBatch(np.cumsum([0, *counts], dtype=np.int32), kv_lens, kv_lens, none, kv_lens, none, none)
    spec = AttentionSpec(32, 8, 128, 16, torch.bfloat16, torch.device("cpu"), kv_dtype=torch.float8_e4m3fn)
    assert is_worth_widening(batch, len(lengths), spec) is worth
