"""The `SlotThinking`: the end of thinking is forced when its budget is spent."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_history import TokenHistory
from quire.engine.step import SequenceStart

# Thinking has not begun.
_NOT_BEGUN = -1


@dataclass(frozen=True, slots=True, eq=False)
class ThinkingRows:
    """Rows of sequences that may think; tensors are on the logits' device.

    Attributes:
        rows, slots, num_tokens: int64 [n]: of the logits, of the state, and how many tokens each has.
        budget: int64 [n].
        begin, end: int64 [n, longest mark]: marks, padded on the left with -1.
        end_length: int64 [n].
        earliest: int64 [n]: tokens of the sequence once its mark of the beginning can have been generated whole.
        history: int32 [num_slots, max_model_len + 1].
    """

    rows: Tensor
    slots: Tensor
    num_tokens: Tensor
    budget: Tensor
    begin: Tensor
    end: Tensor
    end_length: Tensor
    earliest: Tensor
    history: Tensor


class SlotThinking(LogitsProcessor[ThinkingRows]):
    """Budgets and marks on the host; where thinking began, and whether it is over, on the device."""

    def __init__(self, num_slots: int, max_model_len: int, device: torch.device) -> None:
        self._budgets: dict[int, ThinkingBudget] = {}
        self._earliest = np.zeros(num_slots, np.int64)
        self._started: dict[int, tuple[int, bool]] = {}
        self._history = TokenHistory(num_slots, max_model_len, device)
        # Position of the first token of thinking.
        self._begun = torch.full((num_slots,), _NOT_BEGUN, dtype=torch.int64, device=device)
        self._is_over = torch.zeros(num_slots, dtype=torch.bool, device=device)

    def wants(self, params: SamplingParams) -> bool:
        return params.thinking is not None

    def reset(self) -> None:
        self._started.clear()
        self._history.reset()

    def start(self, start: SequenceStart) -> None:
        budget = start.sampling.thinking
        if budget is None:
            raise ValueError(f"the sequence for slot {start.slot} has no budget of thinking")
        self._budgets[start.slot] = budget
        self._earliest[start.slot] = start.num_prompt + len(budget.begin_ids)
        self._history.start(start.slot, start.token_ids)
        begun = start.num_prompt
        if budget.begin_ids:
            found = _find(start.token_ids[start.num_prompt :], budget.begin_ids)
            begun = _NOT_BEGUN if found is None else start.num_prompt + found
        is_over = begun != _NOT_BEGUN and _find(start.token_ids[begun:], budget.end_ids) is not None
        self._started[start.slot] = begun, is_over

    def arrays(self, step: FeatureStep) -> Arrays:
        budgets = [self._budgets[slot] for slot in step.slots.tolist()]
        longest = max(max(len(each.begin_ids), len(each.end_ids)) for each in budgets)
        arrays: Arrays = {
            "rows": step.rows,
            "budget": np.array([each.max_tokens for each in budgets], np.int64),
            "begin": _padded([each.begin_ids for each in budgets], longest),
            "end": _padded([each.end_ids for each in budgets], longest),
            "end_length": np.array([len(each.end_ids) for each in budgets], np.int64),
            "earliest": self._earliest[step.slots],
            **self._history.arrays(step),
        }
        if self._started and (started := [slot for slot in step.slots.tolist() if slot in self._started]):
            begun, is_over = zip(*map(self._started.pop, started), strict=True)
            arrays["started"] = np.array(started, np.int64)
            arrays["begun"], arrays["is_over"] = np.array(begun, np.int64), np.array(is_over, np.bool_)
        return arrays

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> ThinkingRows:
        if "started" in there:
            self._begun[there["started"]] = there["begun"]
            self._is_over[there["started"]] = there["is_over"]
        return ThinkingRows(
            rows=there["rows"],
            slots=there["slots"],
            num_tokens=there["num_tokens"],
            budget=there["budget"],
            begin=there["begin"].view(len(there["rows"]), -1),
            end=there["end"].view(len(there["rows"]), -1),
            end_length=there["end_length"],
            earliest=there["earliest"],
            history=self._history.write(there),
        )

    def process(self, logits: Tensor, rows: ThinkingRows) -> None:
        begun = self._begun[rows.slots]
        spent = rows.num_tokens - begun - rows.budget
        is_forced = (begun != _NOT_BEGUN) & ~self._is_over[rows.slots] & (spent >= 0) & (spent < rows.end_length)
        place = rows.end.shape[1] - rows.end_length + spent.clamp(min=0)
        forced = rows.end.gather(1, place.clamp(max=rows.end.shape[1] - 1).unsqueeze(1))
        found = logits[rows.rows]
        only = torch.full_like(found, -torch.inf).scatter_(1, forced.clamp(min=0), 0.0)
        logits[rows.rows] = torch.where(is_forced.unsqueeze(1), only, found)

    def advance(self, rows: ThinkingRows, token_ids: Tensor) -> None:
        self._history.append(rows.slots, rows.num_tokens, token_ids[rows.rows])
        length = rows.num_tokens + 1
        width = rows.end.shape[1]
        place = length.unsqueeze(1) - width + torch.arange(width, device=length.device)
        newest = rows.history[rows.slots.unsqueeze(1), place.clamp(min=0)]
        begun = self._begun[rows.slots]
        is_end = _ends_with(newest, rows.end) & (begun != _NOT_BEGUN)
        self._is_over[rows.slots] |= is_end & (length - rows.end_length >= begun)
        begins = _ends_with(newest, rows.begin) & (begun == _NOT_BEGUN) & (length >= rows.earliest)
        self._begun[rows.slots] = torch.where(begins, length, begun)


def _find(token_ids: NDArray[np.int32], mark: tuple[int, ...]) -> int | None:
    """Where the tokens behind the first mark begin."""
    for at in range(len(token_ids) - len(mark) + 1):
        if tuple(token_ids[at : at + len(mark)].tolist()) == mark:
            return at + len(mark)
    return None


def _padded(marks: list[tuple[int, ...]], longest: int) -> NDArray[np.int64]:
    padded = np.full((len(marks), longest), -1, np.int64)
    for row, mark in zip(padded, marks, strict=True):
        row[longest - len(mark) :] = mark
    return padded.ravel()


def _ends_with(newest: Tensor, marks: Tensor) -> Tensor:
    """Which rows of tokens end with their mark; none ends with an empty one."""
    return ((marks < 0) | (marks == newest)).all(dim=1) & (marks[:, -1] >= 0)
