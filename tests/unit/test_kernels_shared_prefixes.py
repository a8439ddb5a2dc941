"""Rows that share a prefix: which are found, how the work is cut, and that nobody's attention changes."""

import numpy as np
import pytest
import torch

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.cuda.shared_prefixes import LEAST_TOKENS, SharedPrefix, shared_prefixes

pytest.importorskip("triton")

from quire.kernels.cuda.attention_decode import TritonDecode
from quire.kernels.cuda.attention_shared import SharedDecode, plan_tasks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BLOCK_SIZE = 16
LEAST = LEAST_TOKENS // BLOCK_SIZE


def table(*rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)], dtype=np.int32), np.concatenate(rows).astype(np.int32)


def found(*rows: list[int], least_spared: int = 1) -> list[tuple[list[int], int]]:
    prefixes = shared_prefixes(*table(*rows), BLOCK_SIZE, least_spared)
    return [(prefix.rows.tolist(), prefix.num_blocks) for prefix in prefixes]


COMMON = list(range(100, 100 + 2 * LEAST))


def test_rows_that_share_nothing() -> None:
    assert found([1], [2, 3]) == []
    assert found([*range(50)], [*range(50, 90)]) == []
    assert found([*COMMON, 1]) == []


def test_rows_with_a_common_prefix_are_found_among_others() -> None:
    assert found([*COMMON, 1], [7] * 60, [*COMMON, 2, 3], [5]) == [([0, 2], len(COMMON))]


def test_the_last_block_of_a_row_is_its_own() -> None:
    assert found(COMMON, [*COMMON, 1]) == [([0, 1], len(COMMON) - 1)]


def test_short_prefixes_and_small_savings_do_not_count() -> None:
    rows = [[*COMMON[:LEAST], each] for each in range(4)]
    assert found(*rows) == [([0, 1, 2, 3], LEAST)]
    assert found(*rows, least_spared=3 * LEAST + 1) == []
    assert found(*([*COMMON[: LEAST - 1], each] for each in range(4))) == []


def test_what_spares_most_is_taken() -> None:
    longer, shorter = [*COMMON, 1], [*COMMON[: LEAST + 1], 9, 9, 9]
    assert found(longer, longer, shorter) == [([0, 1, 2], LEAST + 1)]
    assert found(longer, longer, longer, shorter) == [([0, 1, 2], len(COMMON))]


def test_each_group_has_its_own() -> None:
    others = [each + 1000 for each in COMMON]
    assert found([*COMMON, 1], [*others, 2], [*COMMON, 3], [*others, 4]) == [
        ([0, 2], len(COMMON)),
        ([1, 3], len(COMMON)),
    ]


def test_tasks_cover_every_query_and_block_once() -> None:
    indptr = np.arange(0, 51 * 70, 70, dtype=np.int32)
    prefixes = [
        SharedPrefix(np.arange(0, 40, dtype=np.int32), 64),
        SharedPrefix(np.array([41, 44], np.int32), 17),
    ]
    tasks = plan_tasks(prefixes, indptr, BLOCK_SIZE, 4, 2)
    assert tasks.members.tolist() == [*range(40), 41, 44]
    assert tasks.skips.tolist() == [64 * 16] * 40 + [0, 17 * 16, 0, 0, 17 * 16] + [0] * 5
    for first, count, firsts_block, length in ((0, 40, 0, 64 * 16), (40, 2, 41 * 70, 17 * 16)):
        of = tasks.tasks[tasks.tasks[:, 0] == first]
        assert (of[:, 1] == count).all()
        assert (of[:, 3] == firsts_block).all()
        parts = int(tasks.counts[tasks.members[first]])
        assert sorted(set(of[:, 6].tolist())) == list(range(parts))
        for tile in set(of[:, 2].tolist()):
            spans = of[of[:, 2] == tile][:, 4:6].tolist()
            assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
            assert spans[-1][1] == length
    assert tasks.counts[0] > 1


@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(6, 2, 64), (3, 3, 128), (2, 1, 96)])
def test_attention_is_that_of_each_row_alone(num_qo: int, num_kv: int, head_dim: int) -> None:
    # The interpreter multiplies the bits of bfloat16.
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
    torch.manual_seed(0)
    shared = list(range(2 * LEAST + 1))
    rows = [[*shared, 70], [90, 91], [*shared, 71, 72], [*shared[:LEAST], 60, 61], [*shared, 73], [92]]
    indptr, indices = table(*rows)
    lengths = np.diff(indptr) * BLOCK_SIZE - np.array([15, 3, 0, 7, 1, 9], np.int32)
    layer_kv = torch.randn(100, 2, BLOCK_SIZE, num_kv, head_dim, device=DEVICE).to(dtype)
    q = torch.randn(len(rows), num_qo + 3, head_dim, device=DEVICE).to(dtype)[:, :num_qo]
    places = torch.arange(len(rows), device=DEVICE)
    paged = PagedBatch(
        qo_indptr=np.arange(len(rows) + 1, dtype=np.int32), kv_indptr=indptr, kv_indices=indices,
        block_ids=torch.from_numpy(indices).to(DEVICE), kv_lens=lengths, positions=places, slot_mapping=places,
    )  # fmt: skip
    reference = TorchAttention(AttentionSpec(num_qo, num_kv, head_dim, BLOCK_SIZE, torch.float32, DEVICE))
    reference.plan(paged)
    wanted = reference.run(layer_kv.float(), q.float())
    prefixes = shared_prefixes(indptr, indices, BLOCK_SIZE, 1)
    assert [prefix.rows.tolist() for prefix in prefixes] == [[0, 2, 4]]
    blocks, room = paged.block_ids.clone(), torch.zeros(2, 9, dtype=torch.int32, device=DEVICE)
    spec = AttentionSpec(num_qo, num_kv, head_dim, BLOCK_SIZE, dtype, DEVICE)
    decode = TritonDecode(spec, room[0], blocks, room[1])
    last = torch.from_numpy((lengths - 1) % BLOCK_SIZE + 1)
    decode.plan(torch.from_numpy(indptr), paged.block_ids, last, num_qo, num_kv, head_dim, BLOCK_SIZE)
    tasks = plan_tasks(prefixes, indptr, BLOCK_SIZE, num_qo // num_kv, num_kv)
    assert tasks.counts.max() > 1
    out = torch.full(wanted.shape, torch.nan, dtype=dtype, device=DEVICE)
    SharedDecode(spec, decode, tasks, blocks).run(q, layer_kv, out)
    torch.testing.assert_close(out.float(), wanted, rtol=2e-2, atol=2e-2)
