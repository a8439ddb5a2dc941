"""Logits processors of users: functions that an executor or `LLM` was given, by name, a batch at a time."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from quire.engine.api.errors import RequestError, StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_history import TokenHistory
from quire.engine.step import SequenceStart, SlotFailure

logger = logging.getLogger(__name__)

GROUP: Final = "quire.logits_processors"


@dataclass(frozen=True, slots=True, eq=False)
class ProcessedRows:
    """The rows of one step whose requests name a processor; tensors are on the logits' device.

    Attributes:
        token_ids: int32 [n, longest]: prompt and generated tokens of each row; what lies behind them is undefined.
        num_tokens: int64 [n]: how many these are.
        num_prompt: how many of them are the prompt.
        arguments: what each request gives the processor: values of JSON.
    """

    token_ids: Tensor
    num_tokens: Tensor
    num_prompt: Sequence[int]
    arguments: Sequence[Any]


UserProcessor: TypeAlias = Callable[[Tensor, ProcessedRows], None]
"""Changes float32 logits [n, vocab_size] in place. It must not wait for the device, and needs no state of its own."""


def load_processors(names: Iterable[str]) -> dict[str, UserProcessor]:
    """The functions that installed packages offer by these names.

    Raises:
        StartupError: there is none of a name, or it cannot be loaded.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    found: dict[str, UserProcessor] = {}
    for name in names:
        if name not in installed:
            known = ", ".join(sorted(installed)) or "the name of a plug-in, and none is installed"
            raise StartupError(f"logits_processors: must be one of {known}, got {name!r}")
        try:
            processor = installed[name].load()
        except Exception as error:
            raise StartupError(f"logits_processors: plug-in {name!r} cannot be loaded: {error!r}") from error
        if not callable(processor):
            raise StartupError(f"logits_processors: plug-in {name!r} is {processor!r}, which is no function")
        found[name] = processor
    return found


@dataclass(slots=True, eq=False)
class UserRows:
    """What one processor is given in a step, and whether it failed.

    Attributes:
        rows: int64 [n], on the device: which of the rows that sample.
        slots: int64 [n], on the device; the same on the host.
    """

    rows: Tensor
    slots: Tensor
    slots_on_host: Sequence[int]
    processed: ProcessedRows
    error: RequestError | None = None


class SlotUserProcessor(LogitsProcessor[UserRows]):
    """One processor, and what the slots give it.

    A request whose processor raises ends with an error that names it; others go on.
    """

    def __init__(
        self, name: str, processor: UserProcessor, num_slots: int, max_model_len: int, device: torch.device
    ) -> None:
        self._name = name
        self._processor = processor
        self._arguments: dict[int, Any] = {}
        self._num_prompt = np.zeros(num_slots, np.int32)
        self._history = TokenHistory(num_slots, max_model_len, device)

    def wants(self, params: SamplingParams) -> bool:
        return any(name == self._name for name, _ in params.logits_processors)

    def reset(self) -> None:
        self._history.reset()

    def start(self, start: SequenceStart) -> None:
        self._arguments[start.slot] = json.loads(dict(start.sampling.logits_processors)[self._name])
        self._num_prompt[start.slot] = start.num_prompt
        self._history.start(start.slot, start.token_ids)

    def arrays(self, step: FeatureStep) -> Arrays:
        return {"rows": step.rows, **self._history.arrays(step)}

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> UserRows:
        slots, history = step.slots.tolist(), self._history.write(there)
        processed = ProcessedRows(
            token_ids=history[there["slots"], : int(step.num_tokens.max())],
            num_tokens=there["num_tokens"],
            num_prompt=self._num_prompt[step.slots].tolist(),
            arguments=[self._arguments[slot] for slot in slots],
        )
        return UserRows(there["rows"], there["slots"], slots, processed)

    def process(self, logits: Tensor, rows: UserRows) -> None:
        changed = logits[rows.rows]
        try:
            self._processor(changed, rows.processed)
        except Exception as error:
            logger.exception("logits processor %r", self._name)
            rows.error = RequestError(f"logits processor {self._name!r} has failed: {error!r}")
        else:
            logits[rows.rows] = changed

    def advance(self, rows: UserRows, token_ids: Tensor) -> None:
        self._history.append(rows.slots, rows.processed.num_tokens, token_ids[rows.rows])

    def failures(self, rows: UserRows) -> Iterable[SlotFailure]:
        return () if rows.error is None else [SlotFailure(slot, rows.error) for slot in rows.slots_on_host]
