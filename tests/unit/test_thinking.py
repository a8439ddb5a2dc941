"""A budget of thinking: a model in plain Python says what must be forced, however sequences come and go."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire import LLM, SamplingParams
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.tool_choice import AUTO
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.model.features.thinking import SlotThinking
from quire.engine.model.slots import Slots
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.text.tokenizer import Tokenizer
from support.starts import sequence_start

NUM_SLOTS, VOCAB, BLOCKS_PER_SLOT = 3, 5, 8


def ints(values: Any) -> Any:
    return np.array(values, np.int32)


def new_slots() -> Slots:
    device = torch.device("cpu")
    return Slots(
        num_slots=NUM_SLOTS, max_model_len=64, block_size=8, num_blocks=NUM_SLOTS * BLOCKS_PER_SLOT, vocab_size=VOCAB,
        device=device, processors=(SlotThinking(NUM_SLOTS, 64, device),),
    )  # fmt: skip


def forced_token(generated: list[int], budget: ThinkingBudget) -> int | None:
    """What must come next; None: anything may."""

    def behind(mark: tuple[int, ...], tokens: list[int]) -> int | None:
        found = [at + len(mark) for at in range(len(tokens)) if tuple(tokens[at : at + len(mark)]) == mark]
        return found[0] if found else None

    begun = behind(budget.begin_ids, generated) if budget.begin_ids else 0
    if begun is None:
        return None
    thought = generated[begun:]
    if behind(budget.end_ids, thought) is not None:
        return None
    spent = len(thought) - budget.max_tokens
    return budget.end_ids[spent] if 0 <= spent < len(budget.end_ids) else None


marks = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple)
budgets = st.builds(ThinkingBudget, st.integers(0, 5), st.one_of(st.just(()), marks), marks)
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8)


def test_a_mark_that_the_prompt_has_in_part_does_not_begin_thinking() -> None:
    slots, budget = new_slots(), ThinkingBudget(0, (0, 0), (3,))
    starts = (sequence_start(0, [0], [0], thinking=budget),)
    for plan_starts, generated, is_forced in ((starts, 0, False), ((), 0, False), ((), 3, True)):
        context = [start.slot for start in plan_starts]
        plan = StepPlan(
            step=1, copies=np.empty((0, 2), np.int32), starts=plan_starts, append_slots=ints([]),
            append_blocks=ints([]), context_slots=ints(context), context_tokens=ints([1 for _ in context]),
            generation_slots=ints([] if context else [0]),
        )  # fmt: skip
        batch = slots.apply(plan)
        logits = torch.zeros(1, VOCAB)
        for processor, rows in batch.processors:
            processor.process(logits, rows)
        assert torch.isfinite(logits).tolist() == [[not is_forced or token == 3 for token in range(VOCAB)]]
        slots.advance(batch, torch.tensor([generated]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_end_is_forced_when_the_budget_is_spent(data: st.DataObject) -> None:
    slots = new_slots()
    known: dict[int, tuple[list[int], int, ThinkingBudget | None]] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        starts: list[SequenceStart] = []
        for slot in data.draw(st.sets(st.integers(0, NUM_SLOTS - 1), max_size=2)):
            prompt, generated = data.draw(tokens), data.draw(st.one_of(st.just([]), tokens))
            budget = data.draw(st.one_of(st.none(), budgets))
            known[slot] = prompt + generated, len(prompt), budget
            table = range(slot * BLOCKS_PER_SLOT, (slot + 1) * BLOCKS_PER_SLOT)
            starts.append(sequence_start(slot, known[slot][0], table, num_prompt=len(prompt), thinking=budget))
        context = [start.slot for start in starts]
        generation = [slot for slot in known if slot not in context]
        plan = StepPlan(
            step=1, copies=np.empty((0, 2), np.int32), starts=tuple(starts), append_slots=ints([]),
            append_blocks=ints([]), context_slots=ints(context),
            context_tokens=ints([len(known[slot][0]) for slot in context]), generation_slots=ints(generation),
        )  # fmt: skip
        batch = slots.apply(plan)
        logits = torch.zeros(len(batch.sampling_slots), VOCAB)
        for processor, rows in batch.processors:
            processor.process(logits, rows)
        sampled = []
        for row, slot in enumerate(batch.sampling_slots.tolist()):
            said, num_prompt, budget = known[slot]
            wanted = None if budget is None else forced_token(said[num_prompt:], budget)
            allowed = {token for token in range(VOCAB) if logits[row, token] == 0}
            assert allowed == (set(range(VOCAB)) if wanted is None else {wanted})
            sampled.append(data.draw(st.sampled_from(sorted(allowed))))
            said.append(sampled[-1])
        slots.advance(batch, torch.tensor(sampled, dtype=torch.int64))


def test_a_sequence_thinks_as_long_as_it_may() -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    with LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=64) as llm:
        plain = llm.generate([[5, 6, 7]], params)[0].token_ids
        budget = ThinkingBudget(4, (), (90, 91))
        cut = llm.generate([[5, 6, 7]], SamplingParams(**{**_fields(params), "thinking": budget}))[0].token_ids
    assert cut[:4] == plain[:4]
    assert cut[4:6] == (90, 91)
    assert 90 not in cut[6:]


def _fields(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ("temperature", "max_tokens", "ignore_eos")}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (ThinkingBudget(-1, (), (1,)), "thinking.max_tokens: must be 0 to 2147483647, got -1"),
        (ThinkingBudget(1, (), ()), "thinking.end_ids: must be at least 1 token"),
        (ThinkingBudget(1, (1,) * 65, (1,)), "thinking.begin_ids: must be at most 64 tokens, got 65"),
        (ThinkingBudget(1, (), (5000,)), "thinking.end_ids.0.: must be 0 to 2047, got 5000"),
        (3, "thinking: must be a ThinkingBudget, got 3"),
    ],
)
def test_refusals(budget: Any, message: str) -> None:
    with (
        LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=8) as llm,
        pytest.raises(InvalidRequest, match=message),
    ):
        llm.generate([[5]], SamplingParams(thinking=budget))


def test_the_marks_of_a_chat() -> None:
    """They are tokens of the model where it has them, as models that reason do."""
    backend = tokenizers.Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    backend.add_tokens(["<think>", "</think>"])
    tokenizer = Tokenizer(backend)
    begin, end = (backend.token_to_id(mark) for mark in ("<think>", "</think>"))
    prompt = ChatPrompt(
        text="", conversation=Conversation.read([{"role": "user", "content": "a"}]), calls=None, tool_choice=AUTO,
        only_first_call=False, keeps_special_tokens=False, has_reasoning=True, is_reasoning_open=False,
    )  # fmt: skip
    assert prompt.thinking(5, tokenizer) == ThinkingBudget(5, (begin,), (end,))
    opened = replace(prompt, is_reasoning_open=True)
    assert opened.thinking(5, tokenizer) == ThinkingBudget(5, (), (end,))
    with pytest.raises(InvalidRequest, match="thinking_token_budget: must be left out: this model writes no reasoning"):
        replace(prompt, has_reasoning=False).thinking(5, tokenizer)
