"""Penalties on the device: the reference's bits at a real vocabulary, the CPU's tokens, and a host that never waits."""

from typing import Any

import numpy as np
import pytest
import torch

from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.engine.model.features.penalties import SlotPenalties
from quire.engine.model.slots import Slots
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.penalties import penalize as reference
from support.device_time import microseconds
from support.penalties import Penalized, penalty_rows
from support.starts import sequence_start

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_ROWS, VOCAB_SIZE, DEVICE = 64, 128_256, torch.device("cuda")


def batch(num_rows: int) -> Any:
    draw = torch.Generator().manual_seed(1)
    rows = [
        Penalized(
            torch.randint(VOCAB_SIZE, (1000,), generator=draw).tolist(),
            torch.randint(300, (1000,), generator=draw).tolist(),
            presence=0.3,
            frequency=0.017,
            repetition=1.1 + row / 100,
        )
        for row in range(num_rows)
    ]
    return penalty_rows(rows, VOCAB_SIZE, None, DEVICE)


def test_bits_and_time() -> None:
    penalize = pytest.importorskip("quire.kernels.cuda.penalties").penalize
    rows = batch(NUM_ROWS)
    logits = torch.randn(NUM_ROWS, VOCAB_SIZE, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1)) * 3
    found, wanted = logits.clone(), logits.clone()
    penalize(found, rows)
    reference(wanted, rows)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, logits)
    ours, theirs = (microseconds(lambda call=call: call(found, rows)) for call in (penalize, reference))
    print(f"\n{NUM_ROWS} penalised rows of {VOCAB_SIZE}: {ours:.0f} µs, PyTorch {theirs:.0f}")


def ints(values: Any) -> Any:
    return np.array(values, np.int32)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_starts_counts_and_penalties_never_wait() -> None:
    """Whole steps of the slots: one copy up, and nothing that synchronises."""
    penalize = pytest.importorskip("quire.kernels.cuda.penalties").penalize
    penalties = SlotPenalties(2, 100, DEVICE, penalize)
    slots = Slots(
        num_slots=2, max_model_len=64, block_size=64, num_blocks=2, vocab_size=100, device=DEVICE,
        processors=(penalties,),
    )  # fmt: skip
    starts = tuple(
        sequence_start(
            slot, [1, 2, 2], [slot], num_prompt=1, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5
        )
        for slot in (0, 1)
    )

    def step(starts: tuple[SequenceStart, ...], context: list[int], generation: list[int]) -> None:
        empty = ints([])
        plan = StepPlan(
            1, np.empty((0, 2), np.int32), starts, empty, empty, ints(context), ints([3] * len(context)),
            ints(generation),
        )  # fmt: skip
        found = slots.apply(plan)
        ((processor, rows),) = found.processors
        processor.process(logits, rows)
        slots.advance(found, tokens)

    logits, tokens = torch.zeros(2, 100, device=DEVICE), torch.tensor([7, 2], device=DEVICE)
    step(starts, [0, 1], [])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step((), [], [0, 1])
        step(starts, [0, 1], [])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert penalties._counts[:, [1, 2, 7]].tolist() == [[1, 4, 2], [1, 6, 0]]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_engine_gives_the_tokens_of_the_cpu(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, seed=5, max_tokens=100, ignore_eos=True, presence_penalty=0.4, frequency_penalty=0.3,
        repetition_penalty=1.2,
    )  # fmt: skip
    prompts = [list(range(i + 3, 200, i + 2)) for i in range(8)]
    made = []
    for device in ("cpu", "cuda"):
        settings = {"dtype": "float32", "num_blocks": 512, "max_batch_size": 16, "device": device}
        with LLM(str(DEMO_MODEL), **settings) as llm:  # type: ignore[arg-type]
            made.append([answer.token_ids for answer in llm.generate(prompts, params)])
    # Sums of another order can turn a near tie, and everything behind it.
    assert sum(one == other for one, other in zip(*made, strict=True)) >= len(prompts) - 1
