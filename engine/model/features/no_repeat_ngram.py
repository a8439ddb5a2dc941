"""The `SlotNoRepeatNgram`: no run of n tokens comes twice, prompt and generation together.

The rule is that of `transformers.NoRepeatNGramLogitsProcessor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_history import TokenHistory
from quire.engine.step import SequenceStart


@dataclass(frozen=True, slots=True, eq=False)
class NgramRows:
    """Rows that repeat no run of `size` tokens, for each size; tensors are on the logits' device.

    Attributes:
        rows, slots, num_tokens: int64 [n]: of the logits, of the history, and how many tokens each has.
        history: int32 [num_slots, max_model_len + 1].
        spans: (size, first, end, longest): entries [first, end) have this size, and at most `longest` tokens.
    """

    rows: Tensor
    slots: Tensor
    num_tokens: Tensor
    history: Tensor
    spans: tuple[tuple[int, int, int, int], ...]


class SlotNoRepeatNgram(LogitsProcessor[NgramRows]):
    """Sizes by slot, and the tokens of those slots on the device."""

    def __init__(self, num_slots: int, max_model_len: int, device: torch.device) -> None:
        self._size = np.zeros(num_slots, np.int32)
        self._history = TokenHistory(num_slots, max_model_len, device)

    def wants(self, params: SamplingParams) -> bool:
        return params.no_repeat_ngram_size > 0

    def reset(self) -> None:
        self._history.reset()

    def start(self, start: SequenceStart) -> None:
        self._size[start.slot] = start.sampling.no_repeat_ngram_size
        self._history.start(start.slot, start.token_ids)

    def arrays(self, step: FeatureStep) -> Arrays:
        step = self._by_size(step)
        return {"rows": step.rows, **self._history.arrays(step)}

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> NgramRows:
        step = self._by_size(step)
        sizes, first = np.unique(self._size[step.slots], return_index=True)
        ends = [*first[1:].tolist(), len(step.slots)]
        spans = tuple(
            (size, begin, end, int(step.num_tokens[begin:end].max()))
            for size, begin, end in zip(sizes.tolist(), first.tolist(), ends, strict=True)
        )
        history = self._history.write(there)
        return NgramRows(there["rows"], there["slots"], there["num_tokens"], history, spans)

    def process(self, logits: Tensor, rows: NgramRows) -> None:
        for size, first, end, longest in rows.spans:
            if longest < size:
                continue
            lengths = rows.num_tokens[first:end].unsqueeze(-1)
            tokens = rows.history[rows.slots[first:end], :longest]
            # [n, longest - size + 1, size]
            runs = tokens.unfold(1, size, 1)
            newest = (lengths - size + 1 + torch.arange(size - 1, device=logits.device)).clamp_(min=0)
            is_begun = (runs[..., :-1] == tokens.gather(1, newest).unsqueeze(1)).all(-1)
            is_begun &= torch.arange(size, longest + 1, device=logits.device) <= lengths
            places = rows.rows[first:end].unsqueeze(-1).expand(is_begun.shape), runs[..., -1].long()
            logits.index_put_(places, forbidden(is_begun), accumulate=True)

    def advance(self, rows: NgramRows, token_ids: Tensor) -> None:
        self._history.append(rows.slots, rows.num_tokens, token_ids[rows.rows])

    def _by_size(self, step: FeatureStep) -> FeatureStep:
        order = np.argsort(self._size[step.slots], kind="stable")
        return FeatureStep(step.rows[order], step.slots[order], step.num_tokens[order])


def forbidden(mask: Tensor) -> Tensor:
    """What is added to logits: -inf where the mask, bool, is true, else 0. A place may be given twice."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, -torch.inf)
