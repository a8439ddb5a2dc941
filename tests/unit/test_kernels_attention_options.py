"""What a spec may ask of attention beside its sizes: the reference and C++ against attention written out."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from quire.kernels.attention import AttentionSpec
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.attention_window import within_window
from quire.kernels.native.attention import NativeAttention
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from support.paged_attention import PagedCase, paged_case

SPEC = AttentionSpec(6, 2, 64, 16, torch.float32, torch.device("cpu"))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
OPTIONS: tuple[dict[str, Any], ...] = (
    {"scale": 0.3},
    {"logits_soft_cap": 0.7},
    {"scale": 1.5, "logits_soft_cap": 30.0},
    {"has_sinks": True},
    {"has_sinks": True, "logits_soft_cap": 2.0},
    {"sliding_window": 20},
    {"sliding_window": 300, "scale": 0.2, "logits_soft_cap": 2.0, "has_sinks": True},
)

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
options = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "-".join(option))


@pytest.fixture(scope="module", params=supported_levels() or [pytest.param(None, marks=pytest.mark.skip)])
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


def check(case: PagedCase, found: torch.Tensor) -> None:
    tolerance = TOLERANCE[case.spec.dtype]
    torch.testing.assert_close(found.float(), case.expected(), rtol=tolerance, atol=tolerance)


@dtypes
@options
def test_the_reference_equals_dense(option: dict[str, Any], dtype: torch.dtype) -> None:
    case = paged_case(replace(SPEC, dtype=dtype, **option))
    attention = TorchAttention(case.spec)
    attention.plan(case.batch)
    check(case, attention.run(case.layer_kv, case.q, sinks=case.sinks))


@dtypes
@options
@pytest.mark.parametrize(("num_qo", "head_dim"), [(2, 32), (6, 80), (16, 128)])
def test_native_equals_dense(
    library: NativeLibrary, option: dict[str, Any], dtype: torch.dtype, num_qo: int, head_dim: int
) -> None:
    case = paged_case(replace(SPEC, num_qo_heads=num_qo, head_dim=head_dim, dtype=dtype, **option))
    attention = NativeAttention(case.spec, library)
    attention.plan(case.batch)
    check(case, attention.run(case.native_kv(), case.q, sinks=case.sinks))


windows = pytest.mark.parametrize("window", [1, 15, 16, 17, 33, 257, 300, 5000])


@windows
def test_the_reference_does_not_read_what_has_left_the_window(window: int) -> None:
    case = paged_case(replace(SPEC, sliding_window=window)).given_away()
    attention = TorchAttention(case.spec)
    attention.plan(case.batch)
    check(case, attention.run(case.layer_kv, case.q))


@windows
@dtypes
def test_native_does_not_read_what_has_left_the_window(library: NativeLibrary, window: int, dtype: torch.dtype) -> None:
    case = paged_case(replace(SPEC, dtype=dtype, sliding_window=window)).given_away()
    attention = NativeAttention(case.spec, library)
    attention.plan(case.batch)
    check(case, attention.run(case.native_kv(), case.q))


@windows
def test_a_batch_within_a_window_has_the_blocks_that_are_seen(window: int) -> None:
    case = paged_case(replace(SPEC, sliding_window=window))
    seen = within_window(case.batch, window, 16)
    assert seen.block_ids.tolist() == seen.kv_indices.tolist()
    for row, (q, k, _) in enumerate(case.rows):
        before, after = (batch.kv_indices[slice(*batch.kv_indptr[row : row + 2])] for batch in (case.batch, seen))
        first = max(len(k) - len(q) + 1 - window, 0) // 16
        assert after.tolist() == before[first:].tolist()
        assert seen.kv_lens[row] == len(k) - 16 * first


@dtypes
@pytest.mark.parametrize("head_dim", [32, 80, 128, 176])
def test_a_scale_left_out_is_that_of_the_heads(library: NativeLibrary, dtype: torch.dtype, head_dim: int) -> None:
    found = []
    for scale in (None, head_dim**-0.5):
        case = paged_case(replace(SPEC, head_dim=head_dim, dtype=dtype, scale=scale))
        attention = NativeAttention(case.spec, library)
        attention.plan(case.batch)
        found.append(attention.run(case.native_kv(), case.q, sinks=case.sinks))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("has_sinks", "sinks", "complaint"),
    [
        (True, None, r"must be \(torch.float32, 6\), got None"),
        (True, torch.zeros(6).double(), r"must be \(torch.float32, 6\), got \(torch.float64, 6\)"),
        (True, torch.zeros(2), r"must be \(torch.float32, 6\), got \(torch.float32, 2\)"),
        (False, torch.zeros(6), r"must be None, got \(torch.float32, 6\)"),
    ],
)
def test_other_sinks_than_the_spec_asks_for_are_refused(
    has_sinks: bool, sinks: torch.Tensor | None, complaint: str
) -> None:
    case = paged_case(replace(SPEC, has_sinks=has_sinks), [(1, 1)])
    attention = TorchAttention(case.spec)
    attention.plan(case.batch)
    with pytest.raises(ValueError, match=complaint):
        attention.run(case.layer_kv, case.q, sinks=sinks)
