"""What of the GPU executor needs no GPU: sizes of graphs, padding, staging."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quire.engine.model.batch import context_rows
from quire.engine.model.cuda_graphs import graph_sizes, padded, size_for
from quire.engine.model.graph_inputs import GraphInputs
from quire.engine.model.piecewise_graphs import PIECE_SIZES
from quire.engine.model.staging import Staging, download, unpacked
from quire.kernels.attention import PagedBatch


@pytest.mark.parametrize(("largest", "wanted"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (9, [1, 2, 4, 8, 16])])
def test_few_rows(largest: int, wanted: list[int]) -> None:
    assert graph_sizes(largest) == wanted


def test_many_rows() -> None:
    sizes = graph_sizes(1000)
    assert sizes[:6] == [1, 2, 4, 8, 16, 24]
    assert sizes[sizes.index(256) :] == [256, *range(320, 1025, 64)]
    assert sizes[-2] < 1000 <= sizes[-1]


def test_a_step_takes_the_least_size_that_has_room() -> None:
    assert [size_for(count, PIECE_SIZES) for count in (1, 64, 65, 512, 513, 1024)] == [64, 64, 128, 512, 640, 1024]


def test_what_graphs_read_is_padded_with_a_spare_block() -> None:
    inputs = GraphInputs(6, spare_block=5, block_size=4, device=torch.device("cpu"), num_groups=2)
    assert [slots.tolist() for slots in inputs.slots] == [[20] * 6] * 2
    for tokens in ([7, 8, 9, 10], [1, 2]):
        ids = torch.tensor(tokens)
        paged = SimpleNamespace(slot_mapping=ids), SimpleNamespace(slot_mapping=ids + 40)
        batch = SimpleNamespace(input_ids=ids, positions=ids + 100, paged=paged, adapters=None)
        inputs.fill(batch, 4)
    assert inputs.input_ids[:2].tolist() == [1, 2]
    assert inputs.positions.tolist() == [101, 102, 0, 0, 0, 0]
    assert [slots.tolist() for slots in inputs.slots] == [[1, 2, 20, 20, 20, 20], [41, 42, 20, 20, 20, 20]]


def test_the_largest_step_is_made_of_rows_that_a_model_can_have() -> None:
    paged = context_rows(25, longest=10, block_size=4, device=torch.device("cpu"))
    assert paged.qo_indptr.tolist() == [0, 10, 20, 25]
    assert paged.kv_indptr.tolist() == [0, 3, 6, 8]
    assert paged.kv_indices.tolist() == paged.block_ids.tolist() == list(range(8))
    assert paged.kv_lens.tolist() == [10, 10, 5]
    assert paged.positions.tolist() == [*range(10), *range(10), *range(5)]
    assert paged.slot_mapping.tolist() == [*range(10), *range(12, 22), *range(24, 29)]


def test_padded_rows_are_one_token_of_the_spare_block() -> None:
    paged = PagedBatch(
        qo_indptr=np.array([0, 1, 2], np.int32),
        kv_indptr=np.array([0, 2, 3], np.int32),
        kv_indices=np.array([4, 7, 1], np.int32),
        block_ids=torch.tensor([4, 7, 1], dtype=torch.int32),
        kv_lens=np.array([20, 3], np.int32),
        positions=torch.tensor([19, 2]),
        slot_mapping=torch.tensor([115, 18]),
    )
    room = torch.arange(4)
    whole = padded(paged, torch.full((2,), 9, dtype=torch.int32), room, room)
    assert whole.qo_indptr.tolist() == [0, 1, 2, 3, 4]
    assert whole.kv_indptr.tolist() == [0, 2, 3, 4, 5]
    assert whole.block_ids.tolist() == [4, 7, 1, 9, 9]
    assert whole.kv_lens.tolist() == [20, 3, 1, 1]
    assert whole.kv_indptr.dtype == whole.kv_lens.dtype == np.int32


def test_arrays_are_staged_as_they_are() -> None:
    arrays = {"ids": np.arange(5), "shares": np.ones(3, np.float32), "none": np.empty(0, np.int32)}
    more = {"ids": np.arange(2, dtype=np.int32)}
    found = Staging(torch.device("cpu")).upload([arrays, more])
    for there, group in zip(found, (arrays, more), strict=True):
        assert list(there) == list(group)
        for name, array in group.items():
            assert there[name].numpy().dtype == array.dtype
            assert there[name].tolist() == array.tolist()


def test_what_comes_back_in_one_copy_is_as_it_was() -> None:
    tensors = torch.arange(3, dtype=torch.int32), torch.rand(3, 2), torch.empty(3, 0, dtype=torch.int32)
    assert download(*tensors) == list(tensors)
    host = torch.cat([tensor.view(torch.int32).flatten() for tensor in tensors])
    for found, wanted in zip(unpacked(host, tensors), tensors, strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
