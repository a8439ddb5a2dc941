"""Mixtures of experts in CUDA graphs, and with int8 weights."""

import pytest
import torch

from quire.kernels.activation import SILU
from quire.kernels.experts import ExpertsShape
from support.experts import Mixture, routed

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

SHAPE = ExpertsShape(num_experts=48, hidden=512, size=384)


@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize("num_tokens", [1, 64, 700])
def test_a_graph_holds_for_any_choice(num_tokens: int, int8: bool) -> None:
    maker = pytest.importorskip("quire.kernels.cuda.experts").CudaExperts
    mixture = Mixture.random(SHAPE, SILU, torch.bfloat16, biased=True, device="cuda")
    experts = mixture.made_by(maker, int8=int8)
    x = torch.randn(num_tokens, SHAPE.hidden, dtype=torch.bfloat16, device="cuda")
    ids, weights = routed(num_tokens, SHAPE.num_experts, 6, "cuda")
    wanted = mixture.wanted(x, ids, weights, int8=int8)
    torch.testing.assert_close(experts(x, ids, weights).double(), wanted, rtol=3e-2, atol=3e-2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = experts(x, ids, weights)
    for other in (ids, ids.flip(1), (ids + 1) % SHAPE.num_experts, torch.full_like(ids, 7)):
        ids.copy_(other.clone())
        graph.replay()
        assert torch.equal(found, experts(x, ids, weights))
