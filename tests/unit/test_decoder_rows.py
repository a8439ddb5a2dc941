"""Behind the last attention only the tokens that are asked for are computed: with the same result."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.engine.demo_model import DEMO_MODEL
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.feed_forward import GatedFeedForward
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.kernels.attention import PagedBatch
from quire.kernels.linear import Linear
from quire.kernels.native.levels import supported_levels
from quire.kernels.registry import kernel_suite
from support.composed import compose

CPU = torch.device("cpu")
NUM_TOKENS = 40
POSITIONS = torch.arange(NUM_TOKENS)
SUITES = ("native", "torch") if supported_levels() else ("torch",)


@pytest.fixture(params=SUITES)
def model(request: pytest.FixtureRequest) -> DecoderModel:
    """Planned for one row of NUM_TOKENS new tokens."""
    kernels = kernel_suite(request.param, CPU, torch.float32, 2)
    composed = compose(DEMO_MODEL, kernels=kernels)
    layers = composed.build.attention
    attention = kernels.attention(layers[0].shape.spec(16, torch.float32, torch.float32, CPU))
    blocks = np.arange(3, dtype=np.int32)
    attention.plan(
        PagedBatch(
            qo_indptr=np.array([0, NUM_TOKENS], np.int32),
            kv_indptr=np.array([0, 3], np.int32),
            kv_indices=blocks,
            block_ids=torch.from_numpy(blocks),
            kv_lens=np.array([NUM_TOKENS], np.int32),
            positions=POSITIONS,
            slot_mapping=torch.arange(NUM_TOKENS),
        )
    )
    for layer in layers:
        layer.bind(attention, kernels.zeros((3, *layer.shape.kv_shape(16)), torch.float32, CPU))
    composed.model.fuse()
    return composed.model


@pytest.mark.parametrize("rows", [[], [39], [0, 7, 8, 39], list(range(NUM_TOKENS))])
def test_some_rows_are_those_of_all(model: DecoderModel, rows: list[int]) -> None:
    ids = torch.arange(5, 5 + NUM_TOKENS)
    wanted = torch.tensor(rows, dtype=torch.int64)
    everything = model.hidden(ids, POSITIONS).clone()
    assert everything.shape[0] == NUM_TOKENS
    torch.testing.assert_close(model.hidden(ids, POSITIONS, wanted), everything[wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["torch"], indirect=True)
def test_the_others_are_not_computed(model: DecoderModel) -> None:
    widths: list[int] = []

    def counting(linear: Linear) -> Linear:
        def run(x: Tensor) -> Tensor:
            widths.append(len(x))
            return linear(x)

        return run

    for block in model.blocks:
        assert isinstance(block, PreNormBlock)
        assert isinstance(block.feed_forward, GatedFeedForward)
        for linear in (block.attention.output, block.feed_forward.gate_up):
            linear.kernel = counting(linear.kernel)
    model.hidden(torch.arange(NUM_TOKENS), POSITIONS, torch.tensor([7, 39]))
    assert widths == [NUM_TOKENS] * (2 * len(model.blocks) - 2) + [2, 2]


def test_a_loaded_model_ends_with_its_last_user() -> None:
    """Without the garbage collector: the pool of a model that is gone is needed by the next."""
    composed = compose(DEMO_MODEL)
    block = weakref.ref(composed.model.blocks[0])
    gc.disable()
    try:
        del composed
        assert block() is None
    finally:
        gc.enable()
