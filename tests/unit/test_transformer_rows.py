"""Behind the last attention only the tokens that are asked for are computed: with the same result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.engine.demo_model import DEMO_MODEL
from quire.engine.model.checkpoint import read_checkpoint
from quire.engine.model.layers import prepare
from quire.engine.model.loader import load_weights
from quire.engine.model.rotary import cos_sin_table
from quire.engine.model.transformer import Transformer
from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.decoder_blocks import BlockShape
from quire.kernels.linear import Linear
from quire.kernels.native.levels import supported_levels
from quire.kernels.registry import kernel_suite

CPU = torch.device("cpu")
NUM_TOKENS = 40
SUITES = ("native", "torch") if supported_levels() else ("torch",)


@pytest.fixture(params=SUITES)
def transformer(request: pytest.FixtureRequest) -> Transformer:
    """Planned for one row of NUM_TOKENS new tokens."""
    checkpoint = read_checkpoint(DEMO_MODEL)
    model = checkpoint.config
    kernels = kernel_suite(request.param, CPU, torch.float32, 2)
    attention = kernels.attention(
        AttentionSpec(model.num_qo_heads, model.num_kv_heads, model.head_dim, 16, torch.float32, CPU)
    )
    blocks = np.arange(3, dtype=np.int32)
    attention.plan(
        PagedBatch(
            qo_indptr=np.array([0, NUM_TOKENS], np.int32),
            kv_indptr=np.array([0, 3], np.int32),
            kv_indices=blocks,
            block_ids=torch.from_numpy(blocks),
            kv_lens=np.array([NUM_TOKENS], np.int32),
            positions=torch.arange(NUM_TOKENS),
            slot_mapping=torch.arange(NUM_TOKENS),
        )
    )
    cos_sin = cos_sin_table(model.inv_freq, model.rope_scale, NUM_TOKENS, CPU)
    shape = BlockShape(model.num_qo_heads, model.num_kv_heads, model.head_dim, model.rms_norm_eps, cos_sin)
    kv = kernels.zeros((model.num_layers, 3, 2, 16, model.num_kv_heads, model.head_dim), torch.float32, CPU)
    weights = load_weights(checkpoint, torch.float32, CPU)
    return Transformer(shape, prepare(weights, shape, [attention] * model.num_layers, kv, kernels), kernels)


@pytest.mark.parametrize("rows", [[], [39], [0, 7, 8, 39], list(range(NUM_TOKENS))])
def test_some_rows_are_those_of_all(transformer: Transformer, rows: list[int]) -> None:
    ids = torch.arange(5, 5 + NUM_TOKENS)
    wanted = torch.tensor(rows, dtype=torch.int64)
    everything = transformer.hidden(ids).clone()
    assert everything.shape[0] == NUM_TOKENS
    torch.testing.assert_close(transformer.hidden(ids, wanted), everything[wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transformer", ["torch"], indirect=True)
def test_the_others_are_not_computed(transformer: Transformer) -> None:
    widths: list[int] = []
    layers = transformer.layers

    def counting(gate_up: Linear) -> Linear:
        def run(x: Tensor) -> Tensor:
            widths.append(len(x))
            return gate_up(x)

        return run

    blocks = tuple(replace(block, gate_up=counting(block.gate_up)) for block in layers.blocks)
    counted = replace(transformer, layers=replace(layers, blocks=blocks))
    counted.hidden(torch.arange(NUM_TOKENS), torch.tensor([7, 39]))
    assert widths == [NUM_TOKENS] * (len(blocks) - 1) + [2]
