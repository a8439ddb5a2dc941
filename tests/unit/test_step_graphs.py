"""Which graphs compute a step, told by stand-ins that need no GPU."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from quire.engine.layers.build import Build
from quire.engine.model import step_graphs
from quire.engine.model.step_graphs import StepGraphs
from quire.kernels.reference import TORCH_SUITE

MAX_ROWS = 20


class Head:
    """Counts rows in place of computing them."""

    def __init__(self) -> None:
        self.shape = (9, 4)
        self.rows: list[int] = []

    def __call__(self, hidden: torch.Tensor) -> None:
        self.rows.append(len(hidden))


class Model:
    def __init__(self) -> None:
        self.head = Head()

    def hidden(
        self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[str, list[int] | None]:
        return "eager", None if rows is None else rows.tolist()


class Attention:
    shares_much = False

    def __init__(self) -> None:
        self.planned = 0

    def plan(self, paged: Any) -> None:
        self.planned += 1

    def shares(self, paged: Any) -> bool:
        return self.shares_much


class Stream:
    """Stands in for one of the device's."""

    def __init__(self, device: torch.device) -> None:
        made_streams.append(self)


made_streams: list[Stream] = []


class Whole:
    def __init__(self, attention: Any, forward: Any, stream: Stream, **settings: Any) -> None:
        self.stream = stream

    def can_run(self, batch: Any) -> bool:
        return len(batch.input_ids) == len(batch.last_tokens) <= MAX_ROWS

    def run(self, batch: Any) -> tuple[str, list[int]]:
        return "whole", []


class Pieces:
    def __init__(self, model: Any, layers: Any, attention: Any, inputs: Any, stream: Stream) -> None:
        # PyTorch keeps a workspace for every stream.
        assert made_streams == [stream]

    def can_run(self, batch: Any) -> bool:
        return len(batch.input_ids) <= 100

    def run(self, batch: Any, rows: torch.Tensor) -> tuple[str, list[int]]:
        return "pieces", rows.tolist()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> tuple[StepGraphs, Attention, Model]:
    made_streams.clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(step_graphs, "CudaGraphs", Whole)
    monkeypatch.setattr(step_graphs, "PiecewiseGraphs", Pieces)
    attention, model = Attention(), Model()
    build = Build(TORCH_SUITE, torch.float32, torch.device("cpu"), 64)
    made = StepGraphs(
        model, build, [], [(attention, 0)], max_rows=MAX_ROWS, max_blocks=3, block_size=4, spare_block=7
    )  # type: ignore[arg-type]  # fmt: skip
    return made, attention, model


def batch(num_tokens: int, last_tokens: list[int]) -> Any:
    paged = SimpleNamespace(positions=torch.arange(num_tokens), qo_indptr=np.array([0, num_tokens], np.int32))
    return SimpleNamespace(
        input_ids=torch.zeros(num_tokens),
        last_tokens=torch.tensor(last_tokens),
        paged=(paged,),
        positions=paged.positions,
        adapters=None,
    )


def hidden(graphs: Any, num_tokens: int, last_tokens: list[int]) -> Any:
    step = batch(num_tokens, last_tokens)
    return graphs.hidden(step, step.last_tokens)


def test_generation_alone_is_a_graph(graphs: Any) -> None:
    made, attention, _ = graphs
    assert hidden(made, 3, [0, 1, 2]) == ("whole", [])
    assert not attention.planned


def test_generation_that_shares_a_prefix_is_done_in_pieces(graphs: Any) -> None:
    made, attention, _ = graphs
    attention.shares_much = True
    assert hidden(made, 3, [0, 1, 2]) == ("pieces", [0, 1, 2, 2])
    assert attention.planned == 1


def test_a_little_context_is_done_in_pieces_and_more_as_it_is(graphs: Any) -> None:
    made, attention, _ = graphs
    assert hidden(made, 90, [4, 9, 89]) == ("pieces", [4, 9, 89, 89])
    assert hidden(made, 101, [4, 50, 60, 70, 100]) == ("eager", [4, 50, 60, 70, 100, 100, 100, 100])
    assert attention.planned == 2


def test_a_step_in_which_nothing_samples(graphs: Any) -> None:
    assert hidden(graphs[0], 50, []) == ("pieces", [])


def test_every_size_of_the_output_layer_is_tried_at_start(graphs: Any) -> None:
    assert graphs[2].head.rows == [1, 2, 4, 8, 16, 24]


def test_the_rows_of_scored_prompts_stay_as_they_are(graphs: Any) -> None:
    many = list(range(3 * MAX_ROWS))
    assert hidden(graphs[0], 101, many) == ("eager", many)
