"""The `SlotGrammars`: rows whose text must match a grammar.

A token may be on the device still when the next step is launched. So masks are made in `process`: behind the launch of
the forward pass, the host waits for the tokens of the step before, and fills the masks while the pass is computed.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.errors import RequestError
from quire.engine.api.sampling import SamplingParams
from quire.engine.grammar.matcher import TextMatcher
from quire.engine.grammar.store import GrammarStore
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.step import SequenceStart, SlotFailure

if TYPE_CHECKING:
    from quire.engine.grammar.batch import MatcherBatch

_BITS: Final = 32
# Masks that may still be on their way to the device, and the one that is made.
_RING: Final = 3
# Threads that fill masks while a GPU computes; on a CPU the forward pass has the cores.
_GPU_THREADS: Final = 4
# The kernel for GPUs is compiled anew for one row, and for numbers that are no multiples of this: warm-up does it once.
_ROWS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class GrammarRows:
    """The sampling rows whose text must match a grammar.

    Attributes:
        rows: int64 [n], on the device: which of the rows.
        masked: the same; on a GPU the last one comes again, until the number is a multiple of 16.
        places: the same, on the host.
        slots: theirs.
        matchers: theirs.
        refused: further rows, whose grammar could not be had.
    """

    rows: Tensor
    masked: Tensor
    places: list[int]
    slots: list[int]
    matchers: list[TextMatcher]
    refused: tuple[SlotFailure, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Sampled:
    """Tokens of a step, int64 [n] on the host once `event` is over, and whose they are."""

    token_ids: Tensor
    event: torch.cuda.Event | None
    matchers: list[TextMatcher]

    def read(self) -> list[int]:
        if self.event is not None:
            self.event.synchronize()
        tokens: list[int] = self.token_ids.tolist()
        return tokens


class SlotGrammars(LogitsProcessor[GrammarRows]):
    """A `TextMatcher` for each slot that wants one.

    Args:
        store: compiles what has not been compiled before, while all wait.
        end_tokens: ids of the tokens that end a sequence.
    """

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, store: GrammarStore, end_tokens: Sequence[int]
    ) -> None:
        self._mask_shape = num_slots, -(-vocab_size // _BITS)
        self._device = device
        self._store = store
        self._end_tokens = list(end_tokens)
        self._matchers: dict[int, TextMatcher] = {}
        self._refused: dict[int, RequestError] = {}
        # In the order of the steps, not read yet.
        self._sampled: deque[_Sampled] = deque()
        self._batch: MatcherBatch | None = None
        self._masks: list[Tensor] = []
        self._turn = 0

    def wants(self, params: SamplingParams) -> bool:
        return params.structured_output is not None

    def reset(self) -> None:
        self._matchers.clear()
        self._refused.clear()
        self._sampled.clear()

    def start(self, start: SequenceStart) -> None:
        slot, structure = start.slot, start.sampling.structured_output
        self._matchers.pop(slot, None)
        self._refused.pop(slot, None)
        if structure is None:
            raise ValueError(f"the sequence for slot {slot} has no structured output")
        try:
            matcher = self._store.library.start(self._store.get(structure))
        except RequestError as error:
            self._refused[slot] = error
        else:
            matcher.accept(start.token_ids[start.num_prompt :].tolist())
            self._matchers[slot] = matcher

    def arrays(self, step: FeatureStep) -> Arrays:
        rows = step.rows[self._are_followed(step)]
        if self._device.type != "cuda" or not len(rows):
            return {"rows": rows, "masked": rows}
        return {"rows": rows, "masked": np.pad(rows, (0, -len(rows) % _ROWS_AT_ONCE), mode="edge")}

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> GrammarRows:
        followed = self._are_followed(step)
        slots = step.slots[followed].tolist()
        return GrammarRows(
            rows=there["rows"],
            masked=there["masked"],
            places=step.rows[followed].tolist(),
            slots=slots,
            matchers=[self._matchers[slot] for slot in slots],
            refused=tuple(SlotFailure(slot, self._refused[slot]) for slot in step.slots[~followed].tolist()),
        )

    def process(self, logits: Tensor, rows: GrammarRows) -> None:
        if not rows.places:
            return
        library = self._store.library
        if self._batch is None:
            self._batch = library.batch(_GPU_THREADS if self._device.type == "cuda" else 1)
        while self._sampled:
            sampled = self._sampled.popleft()
            self._batch.accept(sampled.matchers, sampled.read())
        mask = self._next_mask()
        only_end = self._batch.fill(rows.matchers, mask, rows.places)
        library.apply(logits, mask[: rows.places[-1] + 1].to(self._device, non_blocking=True), rows.masked)
        if only_end.any():
            # An end that another parameter forbids comes all the same: nothing else is left.
            ended = torch.from_numpy(np.array(rows.places)[only_end]).to(self._device)
            for token in self._end_tokens:
                logits[:, token].index_fill_(0, ended, 0.0)

    def advance(self, rows: GrammarRows, token_ids: Tensor) -> None:
        if not rows.places:
            return
        token_ids = token_ids[rows.rows]
        event = None
        if self._device.type == "cuda":
            host = torch.empty(token_ids.shape, dtype=token_ids.dtype, pin_memory=True)
            token_ids = host.copy_(token_ids, non_blocking=True)
            event = torch.cuda.current_stream(self._device).record_event()
        self._sampled.append(_Sampled(token_ids, event, rows.matchers))

    def failures(self, rows: GrammarRows) -> list[SlotFailure]:
        matched = zip(rows.slots, rows.matchers, strict=True)
        failed = [SlotFailure(slot, matcher.failure) for slot, matcher in matched if matcher.failure is not None]
        return [*failed, *rows.refused]

    def _are_followed(self, step: FeatureStep) -> NDArray[np.bool_]:
        return np.array([slot in self._matchers for slot in step.slots.tolist()])

    def _next_mask(self) -> Tensor:
        """int32 [num_slots, ceil(vocab_size / 32)], pinned where there is a GPU."""
        if not self._masks:
            is_pinned = self._device.type == "cuda"
            self._masks = [torch.zeros(self._mask_shape, dtype=torch.int32, pin_memory=is_pinned) for _ in range(_RING)]
        self._turn = (self._turn + 1) % _RING
        return self._masks[self._turn]
