"""The `SlotBadWords`: runs of tokens that must not be generated.

The last token of a run is forbidden where the others have just come, as `transformers.NoBadWordsLogitsProcessor` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.no_repeat_ngram import forbidden
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_history import TokenHistory
from quire.engine.step import SequenceStart

# Before the first token of a run that is shorter than others.
_ANY = -1


@dataclass(frozen=True, slots=True, eq=False)
class WordRows:
    """One entry for each row and run of tokens; tensors are on the logits' device.

    Attributes:
        entry: int64 [n]: the entry's place among `rows`, `slots` and `num_tokens`, int64 [num_rows].
        begin: int32 [n, k]: the tokens before its last, with -1 before the first.
        last: int64 [n]: its last token.
        history: int32 [num_slots, max_model_len + 1].
    """

    entry: Tensor
    begin: Tensor
    last: Tensor
    rows: Tensor
    slots: Tensor
    num_tokens: Tensor
    history: Tensor


class SlotBadWords(LogitsProcessor[WordRows]):
    """Runs by slot, and the tokens of those slots on the device."""

    def __init__(self, num_slots: int, max_model_len: int, device: torch.device) -> None:
        # Beginnings, padded on the left to the longest of the slot, and last tokens.
        self._words: dict[int, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}
        self._history = TokenHistory(num_slots, max_model_len, device)

    def wants(self, params: SamplingParams) -> bool:
        return bool(params.bad_words_ids)

    def reset(self) -> None:
        self._history.reset()

    def start(self, start: SequenceStart) -> None:
        words = start.sampling.bad_words_ids
        begins = np.full((len(words), max(map(len, words)) - 1), _ANY, np.int32)
        for begin, word in zip(begins, words, strict=True):
            begin[len(begin) - len(word) + 1 :] = word[:-1]
        self._words[start.slot] = begins, np.array([word[-1] for word in words], np.int64)
        self._history.start(start.slot, start.token_ids)

    def arrays(self, step: FeatureStep) -> Arrays:
        begins, lasts = zip(*(self._words[slot] for slot in step.slots.tolist()), strict=True)
        longest = max(each.shape[1] for each in begins)
        padded = [np.pad(each, ((0, 0), (longest - each.shape[1], 0)), constant_values=_ANY) for each in begins]
        return {
            "rows": step.rows,
            "entry": np.repeat(np.arange(len(step.rows)), [len(each) for each in lasts]),
            "begin": np.concatenate(padded).ravel(),
            "last": np.concatenate(lasts),
            **self._history.arrays(step),
        }

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> WordRows:
        return WordRows(
            entry=there["entry"],
            begin=there["begin"].view(len(there["entry"]), -1),
            last=there["last"],
            rows=there["rows"],
            slots=there["slots"],
            num_tokens=there["num_tokens"],
            history=self._history.write(there),
        )

    def process(self, logits: Tensor, rows: WordRows) -> None:
        length = rows.begin.shape[1]
        place = rows.num_tokens[rows.entry].unsqueeze(-1) - length + torch.arange(length, device=logits.device)
        newest = rows.history[rows.slots[rows.entry].unsqueeze(-1), place.clamp(min=0)]
        has_come = ((rows.begin == _ANY) | ((rows.begin == newest) & (place >= 0))).all(-1)
        logits.index_put_((rows.rows[rows.entry], rows.last), forbidden(has_come), accumulate=True)

    def advance(self, rows: WordRows, token_ids: Tensor) -> None:
        self._history.append(rows.slots, rows.num_tokens, token_ids[rows.rows])
