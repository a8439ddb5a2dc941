"""Steps that use what only some requests ask for, so that the first of these finds it loaded."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.step import SequenceStart, StepPlan


def warmup_plans(slot: int, num_groups: int = 1) -> Iterator[StepPlan]:
    """One sequence that draws, then one that wants everything that a sequence can.

    Each computes one token in the first block of the pool, which must be empty; all cache groups write there.
    """
    nothing, this_slot = np.empty(0, np.int32), np.array([slot], np.int32)
    token, first_block = (np.zeros(count, np.int32) for count in (1, num_groups))
    drawn = SamplingParams(temperature=1.0, seed=0)
    every = replace(
        drawn, top_k=2, top_p=0.9, min_p=0.1, typical_p=0.9, frequency_penalty=1.0, logit_bias=((0, 1.0),), logprobs=1,
        no_repeat_ngram_size=2, bad_words_ids=((0, 0),), min_tokens=1, allowed_token_ids=(0, 1), stop_token_ids=(1,),
        thinking=ThinkingBudget(5, (), (1,)),
        structured_output=StructuredOutput(choice=("yes", "no")),
    )  # fmt: skip
    for step, params in enumerate((drawn, every)):
        start = SequenceStart(slot, token, 0, first_block, num_prompt=1, sampling=params)
        yield StepPlan(
            step=step, copies=np.empty((0, 2), np.int32), starts=(start,), append_slots=nothing, append_blocks=nothing,
            context_slots=this_slot, context_tokens=np.ones(1, np.int32), generation_slots=nothing,
        )  # fmt: skip
