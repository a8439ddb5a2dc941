"""The `SlotPrompts`: what is wanted of the hidden states of prompts: scores and vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.model.features.context_rows import ContextRows, StateRows, state_arrays
from quire.engine.model.features.pooling import PooledPlaces, SlotPooling, pooled_tokens
from quire.engine.model.features.prompt_logprobs import ScoredPlaces, ScoredTokens, SlotPromptLogprobs
from quire.engine.model.features.slot_feature import Arrays
from quire.engine.step import SequenceStart


@dataclass(frozen=True, slots=True, eq=False)
class PromptPlaces:
    """What a step needs of prompts, on the host.

    Attributes:
        arrays: to upload, in groups; none: nothing is needed.
        scored, pooled: None: nothing is.
    """

    arrays: Sequence[Arrays] = ()
    scored: ScoredPlaces | None = None
    pooled: PooledPlaces | None = None

    def on_device(self, there: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """The fields of a `Batch`, from the groups on the device."""
        if not there:
            return {}
        states, scored, pooled = there
        found: dict[str, Any] = {"states": StateRows(states["states"], states["sampling"])}
        if self.scored is not None:
            found["scored"] = ScoredTokens(self.scored, scored["rows"], scored["targets"])
        if self.pooled is not None:
            found["pooled"] = pooled_tokens(self.pooled, pooled, states["pooled"])
        return found


_NOTHING = PromptPlaces()


class SlotPrompts:
    """Which slots want something of their prompts.

    Attributes:
        pooling: sums of hidden states.
    """

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._logprobs = SlotPromptLogprobs(num_slots, vocab_size)
        self.pooling = SlotPooling(num_slots)

    def reset(self) -> None:
        """Forget every slot."""
        self._logprobs.reset()
        self.pooling.reset()

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot."""
        self._logprobs.start(start)
        self.pooling.start(start)

    def places(self, context: ContextRows, known: Sequence[Int32Array], last_tokens: NDArray[np.int64]) -> PromptPlaces:
        """What a step needs.

        Args:
            known: tokens of every slot.
            last_tokens: int64 [num_sampling], ascending: the new tokens that the sampling rows use.
        """
        scored, pooled = self._logprobs.places(context, known), self.pooling.places(context)
        if scored is None and pooled is None:
            return _NOTHING
        none = np.empty(0, np.int64)
        wanted = [none if each is None else each.tokens for each in (scored, pooled)]
        arrays, (scored_rows, pooled_rows) = state_arrays(last_tokens, *wanted)
        of_scored: Arrays = {} if scored is None else {"rows": scored_rows, "targets": scored.targets}
        of_pooled = {} if pooled is None else pooled.arrays
        return PromptPlaces(({**arrays, "pooled": pooled_rows}, of_scored, of_pooled), scored, pooled)
