"""Penalties in the engine: what is counted where, across steps, pauses and restarts; and that others pay nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.engine.model.features.penalties import SlotPenalties
from quire.engine.model.slots import Slots
from quire.engine.scheduled_step import ContextChunk, ScheduledStep
from quire.engine.scheduling.plan import make_plan
from quire.engine.sequence import Sequence
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.penalties import penalize
from quire.services.common import wire
from support.models import load_reference
from support.operations import Operations
from support.penalties import counts_of
from support.prompts import random_prompts
from support.rig import new_request
from support.simulated_executor import executor_info
from support.starts import sequence_start

NUM_SLOTS, VOCAB, BLOCKS_PER_SLOT = 4, 12, 8
PENALTIES: dict[str, Any] = {"presence_penalty": 0.4, "frequency_penalty": 0.3, "repetition_penalty": 1.2}


def ints(values: Any) -> Any:
    return np.array(values, np.int32)


def new_slots() -> Slots:
    return Slots(
        num_slots=NUM_SLOTS, max_model_len=64, block_size=8, num_blocks=NUM_SLOTS * BLOCKS_PER_SLOT, vocab_size=VOCAB,
        device=torch.device("cpu"), processors=(SlotPenalties(NUM_SLOTS, VOCAB, torch.device("cpu"), penalize),),
    )  # fmt: skip


def penalties_of(slots: Slots) -> SlotPenalties:
    (penalties,) = slots._processors
    assert isinstance(penalties, SlotPenalties)
    return penalties


def plan(starts: list[SequenceStart], context: dict[int, int], generation: list[int]) -> StepPlan:
    return StepPlan(
        step=1, copies=np.empty((0, 2), np.int32), starts=tuple(starts), append_slots=ints([]),
        append_blocks=ints([]), context_slots=ints(list(context)), context_tokens=ints(list(context.values())),
        generation_slots=ints(generation),
    )  # fmt: skip


def start(slot: int, tokens: list[int], num_prompt: int | None) -> SequenceStart:
    """Penalised if it says where the prompt ends."""
    table = range(slot * BLOCKS_PER_SLOT, (slot + 1) * BLOCKS_PER_SLOT)
    penalties: dict[str, float] = {}
    if num_prompt is not None:
        penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.25 + slot, "repetition_penalty": 1.5}
    return sequence_start(slot, tokens, table, num_prompt=num_prompt, **penalties)


def step(slots: Slots, step_plan: StepPlan, sampled: list[int]) -> dict[int, list[int]]:
    """Counts, by slot, that the logits of this step are penalised with."""
    batch = slots.apply(step_plan)
    found = {}
    for _, rows in batch.processors:
        assert rows.slots.tolist() == batch.sampling_slots[rows.rows.numpy()].tolist()
        assert rows.frequency.tolist() == [0.25 + slot for slot in rows.slots.tolist()]
        found = {slot: rows.counts[slot].tolist() for slot in rows.slots.tolist()}
    slots.advance(batch, torch.tensor(sampled[: len(batch.sampling_slots)], dtype=torch.int64))
    return found


tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_counts_are_those_of_the_tokens_however_a_sequence_is_cut(data: st.DataObject) -> None:
    """Sequences start anywhere in their lives, in slots that others had, in chunks, and beside unpenalised ones."""
    slots = new_slots()
    known: dict[int, tuple[list[int], int | None]] = {}
    waiting: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        starts = []
        for slot in data.draw(st.sets(st.integers(0, NUM_SLOTS - 1), max_size=2)):
            prompt, generated = data.draw(tokens), data.draw(st.one_of(st.just([]), tokens))
            known[slot] = prompt + generated, data.draw(st.sampled_from([None, len(prompt)]))
            waiting[slot] = len(known[slot][0])
            starts.append(start(slot, *known[slot]))
        context = {slot: data.draw(st.integers(1, left)) for slot, left in waiting.items()}
        generation = [slot for slot in known if slot not in waiting]
        waiting = {slot: left - context[slot] for slot, left in waiting.items() if left > context[slot]}
        sampled = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=NUM_SLOTS, max_size=NUM_SLOTS))
        found = step(slots, plan(starts, context, generation), sampled)
        sampling = [slot for slot in (*context, *generation) if slot not in waiting]
        wanted = {}
        for slot, token in zip(sampling, sampled, strict=False):
            said, num_prompt = known[slot]
            if num_prompt is not None:
                wanted[slot] = counts_of(said[:num_prompt], said[num_prompt:], VOCAB)
            said.append(token)
        assert found == wanted


def test_a_reset_forgets_what_was_penalised() -> None:
    slots = new_slots()
    assert step(slots, plan([start(2, [1, 1], 1)], {2: 2}, []), [3]) == {2: counts_of([1], [1], VOCAB)}
    slots.reset()
    assert step(slots, plan([start(2, [1, 1], None)], {2: 2}, []), [3]) == {}
    assert step(slots, plan([start(2, [4], 1)], {2: 1}, []), [3]) == {2: counts_of([4], [], VOCAB)}


@pytest.mark.parametrize("num_prompt", [0, 3])
def test_a_prompt_that_ends_outside_of_the_tokens_is_refused(num_prompt: int) -> None:
    with pytest.raises(InvalidRequest, match="num_prompt: must be 1 to the 2 tokens of slot 1"):
        new_slots().apply(plan([start(1, [1, 2], num_prompt)], {1: 2}, []))


def operations(slots: Slots, step_plan: StepPlan) -> list[str]:
    with Operations() as found:
        batch = slots.apply(step_plan)
        assert batch.processors == ()
        slots.advance(batch, torch.tensor([1] * len(batch.sampling_slots)))
    return found.names


def test_who_asks_for_no_penalties_pays_for_none() -> None:
    """No array goes up, nothing runs and no memory is taken; also beside a slot that is penalised in other steps."""
    fresh, used = new_slots(), new_slots()
    assert penalties_of(used)._counts.numel() == 0
    step(used, plan([start(3, [5], 1)], {3: 1}, []), [1])
    for each in ([start(0, [1, 2], None)], {0: 2}, []), ([], {}, [0]):
        assert operations(fresh, plan(*each)) == operations(used, plan(*each))
    assert penalties_of(fresh)._counts.numel() == 0


def test_memory_grows_with_the_slots_that_are_penalised() -> None:
    slots = new_slots()
    for slot, num_slots in ((0, 1), (1, 2), (3, 4), (2, 4)):
        step(slots, plan([start(slot, [1, 2], 1)], {slot: 2}, []), [3])
        assert penalties_of(slots)._counts.shape == (num_slots, VOCAB)
    found = step(slots, plan([], {}, [0, 1, 2, 3]), [0] * 4)
    assert found == {slot: counts_of([1], [2, 3], VOCAB) for slot in range(NUM_SLOTS)}


def planned(params: SamplingParams, generated: list[int]) -> StepPlan:
    request = replace(new_request(1, [7, 8, 9], 20), generated=ints(generated), params=params)
    sequence = Sequence(request, ())
    sequence.slot = 0
    chunk = ContextChunk(sequence, 0, len(sequence.tokens))
    return make_plan(ScheduledStep(1, [sequence], [chunk], ints([]), []), 0)


def test_the_plan_says_where_the_prompt_ends_and_how_to_sample() -> None:
    plain = SamplingParams(seed=1, max_tokens=20)
    plan = wire.plan_to_proto(planned(replace(plain, **PENALTIES), [1, 2]))
    (back,) = wire.plan_from_proto(plan, replace(executor_info(), vocab_size=10), 0).starts
    assert back.num_prompt == 3
    assert back.sampling == replace(plain, **{name: float(np.float32(value)) for name, value in PENALTIES.items()})


@pytest.fixture(scope="module")
def demo_prompts() -> list[list[int]]:
    return random_prompts(6, 60, 2048, seed=9)


def generate(prompts: list[list[int]], params: SamplingParams, num_blocks: int = 512) -> tuple[list[list[int]], int]:
    """The tokens, and how often sequences were paused."""
    policy = SchedulerConfig(capacity_policy="MAX_UTILIZATION")
    with LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=num_blocks, scheduler=policy) as llm:
        made = [list(answer.token_ids) for answer in llm.generate(prompts, params)]
        return made, llm.statistics().num_pauses


def test_repetition_is_that_of_transformers(demo_prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, repetition_penalty=1.3)
    model = load_reference(DEMO_MODEL)
    model.generation_config.eos_token_id = None
    found, _ = generate(demo_prompts, params)
    for prompt, made in zip(demo_prompts, found, strict=True):
        ids = torch.tensor([prompt])
        wanted = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60, pad_token_id=0,
            repetition_penalty=1.3,
        )  # fmt: skip
        assert made == wanted[0, len(prompt) :].tolist()
    assert found != generate(demo_prompts, replace(params, repetition_penalty=1.0))[0]


def test_pauses_change_nothing(demo_prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=100, ignore_eos=True, **PENALTIES)
    wanted, none = generate(demo_prompts, params)
    found, some = generate(demo_prompts, params, num_blocks=20)
    assert (none, some > 0) == (0, True)
    assert found == wanted


def test_penalties_do_what_they_are_for(demo_prompts: list[list[int]]) -> None:
    """Greedy text of a tiny model goes round in circles; each penalty makes it say more."""
    greedy = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
    changes = [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 1.5}]
    with LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=512) as llm:
        plain = sum(len(set(answer.token_ids)) for answer in llm.generate(demo_prompts, greedy))
        for change in changes:
            answers = llm.generate(demo_prompts, replace(greedy, **change))
            assert sum(len(set(answer.token_ids)) for answer in answers) > plain
