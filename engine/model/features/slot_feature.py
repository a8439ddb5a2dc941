"""The `SlotFeature`: what one kind of request parameter does to a slot, and to the steps in which that slot samples."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.step import SequenceStart, SlotFailure

RowsT = TypeVar("RowsT")
Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStep:
    """The rows of a step that sample and whose sequences want one feature; at least one.

    Attributes:
        rows: int64 [n], ascending: which of the rows that sample.
        slots: int32 [n]: theirs.
        num_tokens: int32 [n]: tokens that each sequence has before the one to be sampled.
    """

    rows: NDArray[np.int64]
    slots: Int32Array
    num_tokens: Int32Array


class SlotFeature(ABC, Generic[RowsT]):
    """State of the slots that want something, and what a step needs of it on the device.

    `Slots` calls `start` when such a sequence takes a slot. For a step in which such slots sample it calls `arrays`,
    uploads these together with all others, and calls `rows`. Nothing is called for what nobody wants.
    """

    @abstractmethod
    def wants(self, params: SamplingParams) -> bool:
        """Whether a sequence of these parameters wants it."""

    @abstractmethod
    def start(self, start: SequenceStart) -> None:
        """A sequence that wants it takes a slot, whose state of before is void. Its tokens are valid."""

    @abstractmethod
    def arrays(self, step: FeatureStep) -> Arrays | None:
        """What `rows` needs on the device; None: nothing is to be done in this step."""

    @abstractmethod
    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> RowsT:
        """What the step's rows want, with the arrays on the device."""

    def reset(self) -> None:
        """Forget every slot."""


class LogitsProcessor(SlotFeature[RowsT]):
    """A feature that changes logits before a token is chosen."""

    @abstractmethod
    def process(self, logits: Tensor, rows: RowsT) -> None:
        """Change float32 logits [num_sampling, vocab_size] in place. Called after the forward pass was launched."""

    def advance(self, rows: RowsT, token_ids: Tensor) -> None:
        """The step sampled `token_ids`, int64 [num_sampling], on the device."""

    def failures(self, rows: RowsT) -> Iterable[SlotFailure]:
        """Slots of the step that cannot go on, once it was processed."""
        return ()
