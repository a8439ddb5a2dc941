"""Logits processors across steps, slots and restarts, against those of `transformers` one sequence at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TypicalLogitsWarper,
)

from quire.engine.api.sampling import SamplingParams
from quire.engine.grammar.store import GrammarStore
from quire.engine.model.features.processors import SlotShape, logits_processors
from quire.engine.model.slots import Slots
from quire.engine.step import SequenceStart, StepPlan
from quire.kernels.reference import TORCH_SUITE
from support.grammars import demo_vocabulary
from support.operations import Operations
from support.starts import sequence_start

NUM_SLOTS, VOCAB, BLOCKS_PER_SLOT, EOS = 4, 12, 8, 11


def ints(values: Any) -> Any:
    return np.array(values, np.int32)


def new_slots() -> Slots:
    shape = SlotShape(NUM_SLOTS, 64, VOCAB, (EOS,), torch.device("cpu"))
    return Slots(
        num_slots=NUM_SLOTS, max_model_len=64, block_size=8, num_blocks=NUM_SLOTS * BLOCKS_PER_SLOT, vocab_size=VOCAB,
        device=shape.device, processors=logits_processors(shape, TORCH_SUITE, GrammarStore(demo_vocabulary), {}),
    )  # fmt: skip


def plan(starts: list[SequenceStart], context: dict[int, int], generation: list[int]) -> StepPlan:
    return StepPlan(
        step=1, copies=np.empty((0, 2), np.int32), starts=tuple(starts), append_slots=ints([]),
        append_blocks=ints([]), context_slots=ints(list(context)), context_tokens=ints(list(context.values())),
        generation_slots=ints(generation),
    )  # fmt: skip


def start(slot: int, tokens: list[int], num_prompt: int, params: SamplingParams) -> SequenceStart:
    table = range(slot * BLOCKS_PER_SLOT, (slot + 1) * BLOCKS_PER_SLOT)
    wants = {name: getattr(params, name) for name in SamplingParams.__slots__}
    return sequence_start(slot, tokens, table, num_prompt=num_prompt, **wants)


def processed(slots: Slots, step_plan: StepPlan, logits: Tensor, sampled: list[int]) -> Tensor:
    """The step's logits as they are sampled from; one row of `logits` for each row that samples."""
    batch = slots.apply(step_plan)
    found = logits[: len(batch.sampling_slots)].clone()
    for processor, rows in batch.processors:
        processor.process(found, rows)
    slots.advance(batch, torch.tensor(sampled[: len(found)], dtype=torch.int64))
    return found


def reference(params: SamplingParams, num_prompt: int) -> LogitsProcessorList:
    """The same from `transformers`."""
    found = LogitsProcessorList()
    if params.logit_bias:
        found.append(SequenceBiasLogitsProcessor({(token,): bias for token, bias in params.logit_bias}))
    if params.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size))
    if params.bad_words_ids:
        words = [list(word) for word in params.bad_words_ids]
        found.append(NoBadWordsLogitsProcessor(words, eos_token_id=None))
    if params.min_tokens:
        ends = [*params.stop_token_ids, *(() if params.ignore_eos else (EOS,))]
        if ends:
            found.append(MinNewTokensLengthLogitsProcessor(num_prompt, params.min_tokens, ends))
    if params.allowed_token_ids:
        others = [token for token in range(VOCAB) if token not in params.allowed_token_ids]
        if others:
            found.append(SuppressTokensLogitsProcessor(others))
    if params.typical_p < 1 and params.temperature > 0:
        found += [TemperatureLogitsWarper(params.temperature), TypicalLogitsWarper(params.typical_p)]
    return found


tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10)
words = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)
WISHES: dict[str, Callable[[], Any]] = {
    "logit_bias": lambda: st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-3, 3, width=32), min_size=1),
    "no_repeat_ngram_size": lambda: st.integers(1, 4),
    "bad_words_ids": lambda: words.map(lambda found: tuple(dict.fromkeys(found))),
    "min_tokens": lambda: st.integers(1, 6),
    "stop_token_ids": lambda: st.lists(st.integers(0, 3), max_size=2).map(tuple),
    "ignore_eos": st.booleans,
    "allowed_token_ids": lambda: st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=9, unique=True),
    "typical_p": lambda: st.sampled_from([0.25, 0.75]),
    "temperature": lambda: st.sampled_from([0.0, 0.5, 2.0]),
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_logits_are_those_of_transformers_however_sequences_come_and_go(data: st.DataObject) -> None:
    """Sequences start anywhere in their lives, in slots that others had, in chunks, beside others of other wishes."""
    slots = new_slots()
    known: dict[int, tuple[list[int], int, SamplingParams]] = {}
    waiting: dict[int, int] = {}
    for turn in range(data.draw(st.integers(1, 8))):
        starts = []
        for slot in data.draw(st.sets(st.integers(0, NUM_SLOTS - 1), max_size=2)):
            prompt, generated = data.draw(tokens), data.draw(st.one_of(st.just([]), tokens))
            names = data.draw(st.sets(st.sampled_from(sorted(WISHES)), max_size=4))
            params = SamplingParams(seed=0, **{name: data.draw(WISHES[name]()) for name in sorted(names)})
            known[slot] = prompt + generated, len(prompt), params
            waiting[slot] = len(known[slot][0])
            starts.append(start(slot, *known[slot]))
        context = {slot: data.draw(st.integers(1, left)) for slot, left in waiting.items()}
        generation = [slot for slot in known if slot not in waiting]
        waiting = {slot: left - context[slot] for slot, left in waiting.items() if left > context[slot]}
        sampled = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=NUM_SLOTS, max_size=NUM_SLOTS))
        logits = torch.randn(NUM_SLOTS, VOCAB, generator=torch.Generator().manual_seed(turn))
        found = processed(slots, plan(starts, context, generation), logits, sampled)
        sampling = [slot for slot in (*context, *generation) if slot not in waiting]
        for row, slot in enumerate(sampling):
            said, num_prompt, params = known[slot]
            wanted = reference(params, num_prompt)(torch.tensor([said]), logits[row : row + 1].clone())
            scaled = params.typical_p < 1 and params.temperature > 0
            expected = wanted[0] * params.temperature if scaled else wanted[0]
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
            said.append(sampled[row])


def test_a_reset_forgets_every_wish() -> None:
    slots = new_slots()
    wants = SamplingParams(seed=0, no_repeat_ngram_size=1, bad_words_ids=((2,),), logit_bias=((3, 5.0),), min_tokens=3)
    logits = torch.zeros(1, VOCAB)
    first = processed(slots, plan([start(1, [4], 1, wants)], {1: 1}, []), logits, [0])
    assert first[0].tolist() == [0, 0, -np.inf, 5, -np.inf, 0, 0, 0, 0, 0, 0, -np.inf]
    slots.reset()
    plain = SamplingParams(seed=0)
    assert processed(slots, plan([start(1, [4], 1, plain)], {1: 1}, []), logits, [0]).tolist() == logits.tolist()


def test_who_wants_nothing_pays_for_nothing() -> None:
    """The same operations as beside nobody, also in the step of slots that want everything at other times."""
    fresh, used = new_slots(), new_slots()
    everything = SamplingParams(
        seed=0, no_repeat_ngram_size=2, bad_words_ids=((2, 3),), logit_bias=((3, 5.0),), min_tokens=3, typical_p=0.5,
        allowed_token_ids=(1, 2), presence_penalty=1.0, temperature=0.5, logprobs=3,
    )  # fmt: skip
    processed(used, plan([start(3, [5], 1, everything)], {3: 1}, []), torch.zeros(1, VOCAB), [1])
    greedy = SamplingParams(seed=0, temperature=0)
    for each in ([start(0, [1, 2], 2, greedy)], {0: 2}, []), ([], {}, [0]):
        names = []
        for slots in (fresh, used):
            with Operations() as found:
                batch = slots.apply(plan(*each))
                slots.advance(batch, torch.tensor([1]))
            assert (batch.processors, batch.logprobs) == ((), None)
            names.append(found.names)
        assert names[0] == names[1]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_long_history_that_repeats(size: int) -> None:
    slots, wants = new_slots(), SamplingParams(seed=0, no_repeat_ngram_size=size)
    said = [1, 2, 3, 4, 5, 6] * 8
    found = processed(slots, plan([start(0, said, 6, wants)], {0: len(said)}, []), torch.zeros(1, VOCAB), [0])
    banned = {1} if size > 1 else set(range(1, 7))
    assert {token for token in range(VOCAB) if found[0, token] == -np.inf} == banned
