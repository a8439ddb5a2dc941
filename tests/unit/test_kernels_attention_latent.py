"""Latent attention: one key head, of which a part is the value; the reference and C++ against attention written out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.native.attention import KERNELS, NativeAttention
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from support.paged_attention import PagedCase, paged_case

SPEC = AttentionSpec(16, 1, 48, 16, torch.float32, torch.device("cpu"), value_dim=32, scale=0.2)
DEEPSEEK = replace(SPEC, num_qo_heads=128, head_dim=576, value_dim=512, scale=0.05)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
specs = pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, num_qo_heads=4, sliding_window=40),
        replace(SPEC, num_qo_heads=5, head_dim=80, value_dim=80, has_sinks=True),
        replace(SPEC, head_dim=128, value_dim=16, logits_soft_cap=2.0),
        replace(DEEPSEEK, num_qo_heads=16),
    ],
    ids=["plain", "window", "whole-sinks", "small-cap", "deepseek-lite"],
)


@pytest.fixture(scope="module", params=supported_levels() or [pytest.param(None, marks=pytest.mark.skip)])
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


def check(case: PagedCase, found: torch.Tensor) -> None:
    tolerance = TOLERANCE[case.spec.dtype]
    torch.testing.assert_close(found.float(), case.expected(), rtol=tolerance, atol=tolerance)


@dtypes
@specs
def test_the_reference_equals_dense(spec: AttentionSpec, dtype: torch.dtype) -> None:
    case = paged_case(replace(spec, dtype=dtype)).given_away()
    attention = TorchAttention(case.spec)
    attention.plan(case.batch)
    check(case, attention.run(case.layer_kv, case.q, sinks=case.sinks))


@dtypes
@specs
def test_native_equals_dense(library: NativeLibrary, spec: AttentionSpec, dtype: torch.dtype) -> None:
    case = paged_case(replace(spec, dtype=dtype)).given_away()
    attention = NativeAttention(case.spec, library)
    attention.plan(case.batch)
    check(case, attention.run(case.native_kv(), case.q, sinks=case.sinks))


@dtypes
def test_native_takes_as_many_heads_as_deepseek_has(library: NativeLibrary, dtype: torch.dtype) -> None:
    case = paged_case(replace(DEEPSEEK, dtype=dtype), [(3, 20), (1, 300)])
    attention = NativeAttention(case.spec, library)
    attention.plan(case.batch)
    check(case, attention.run(case.native_kv(), case.q))


@dtypes
def test_native_rows_are_the_same_to_the_bit_in_any_batch_and_chunk(library: NativeLibrary, dtype: torch.dtype) -> None:
    case = paged_case(replace(SPEC, dtype=dtype), [(700, 700), (1, 30)])
    attention, layer_kv, q = NativeAttention(case.spec, library), case.native_kv(), case.q
    attention.plan(case.batch)
    together = attention.run(layer_kv, q)
    for start, stop in ((0, 1), (511, 512), (699, 700), (250, 300), (1, 650)):
        num_blocks = -(-stop // 16)
        attention.plan(
            PagedBatch(
                qo_indptr=np.array([0, stop - start], np.int32),
                kv_indptr=np.array([0, num_blocks], np.int32),
                kv_indices=case.batch.kv_indices[:num_blocks],
                block_ids=case.batch.block_ids[:num_blocks],
                kv_lens=np.array([stop], np.int32),
                positions=torch.arange(start, stop),
                slot_mapping=torch.zeros(0, dtype=torch.int64),
            )
        )
        assert torch.equal(attention.run(layer_kv, q[start:stop]), together[start:stop])


@dtypes
def test_keys_are_appended_without_values(library: NativeLibrary, dtype: torch.dtype) -> None:
    """A context behind another one; the rest of the cache is not a number."""
    case = paged_case(replace(SPEC, dtype=dtype), [(5, 20), (1, 33), (40, 40)])
    keys = torch.cat([k[len(k) - len(q) :] for q, k, _ in case.rows])
    slots = case.batch.slot_mapping
    emptied = case.layer_kv.clone()
    emptied[slots // 16, 0, slots % 16] = torch.nan
    reference, native = TorchAttention(case.spec), NativeAttention(case.spec, library)
    for attention, layer_kv in ((reference, emptied), (native, replace(case, layer_kv=emptied).native_kv())):
        attention.plan(case.batch)
        attention.append(layer_kv, keys, None)
        check(case, attention.run(layer_kv, case.q))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_kv_heads": 2}, "needs one key head, and is 1 to head_dim, got 32 with 2 heads of 48"),
        ({"value_dim": 64}, "got 64 with 1 heads of 48"),
        ({"value_dim": 0}, "got 0 with 1 heads of 48"),
    ],
)
def test_a_spec_is_of_one_head_and_a_part_of_it(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(SPEC, **change)


def test_native_says_which_values_it_takes() -> None:
    found = KERNELS.unsupported_reason(replace(SPEC, value_dim=40))
    assert found == "needs latent values of 16 to 576 in steps of 16, got 40"
