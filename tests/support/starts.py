"""Sequences that take slots, with the prompt alone unless told otherwise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quire.engine.api.sampling import SamplingParams
from quire.engine.step import SequenceStart


def sequence_start(
    slot: int,
    tokens: Sequence[int],
    table: Sequence[int],
    num_computed: int = 0,
    num_prompt: int | None = None,
    **sampling: Any,
) -> SequenceStart:
    """Greedy unless `sampling` says otherwise. Its arrays are read-only, as those of a received message."""
    arrays = [np.array(each, np.int32) for each in (tokens, table)]
    for array in arrays:
        array.flags.writeable = False
    params = SamplingParams(**({"temperature": 0.0, "seed": 0} | sampling))
    num_prompt = len(tokens) if num_prompt is None else num_prompt
    return SequenceStart(slot, arrays[0], num_computed, arrays[1], num_prompt, params)


def blocks_of(places: Sequence[int], num_groups: int) -> list[int]:
    """A block of each cache group for every place, as a plan appends them."""
    return [place * num_groups + group for place in places for group in range(num_groups)]


def tables_of(places: Sequence[int], num_groups: int) -> list[int]:
    """The same blocks as tables of all groups behind each other, as a sequence starts with them."""
    return [place * num_groups + group for group in range(num_groups) for place in places]
