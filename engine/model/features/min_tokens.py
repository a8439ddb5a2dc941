"""The `SlotMinTokens`: what ends a sequence is forbidden until it is long enough."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_rows import TokenRows
from quire.engine.step import SequenceStart


class SlotMinTokens(LogitsProcessor[TokenRows]):
    """By slot, the tokens that end its sequence and the length up to which they are forbidden.

    Args:
        eos_token_ids: the model's.
    """

    def __init__(self, num_slots: int, eos_token_ids: Sequence[int]) -> None:
        self._eos = tuple(eos_token_ids)
        # A sum of two numbers of 32 bits.
        self._until = np.zeros(num_slots, np.int64)
        self._ends: dict[int, NDArray[np.int64]] = {}

    def wants(self, params: SamplingParams) -> bool:
        return params.min_tokens > 0

    def start(self, start: SequenceStart) -> None:
        params = start.sampling
        eos = () if params.ignore_eos else self._eos
        self._until[start.slot] = start.num_prompt + params.min_tokens
        self._ends[start.slot] = np.unique(np.array((*eos, *params.stop_token_ids), np.int64))

    def arrays(self, step: FeatureStep) -> Arrays | None:
        short = np.flatnonzero(step.num_tokens < self._until[step.slots])
        if not len(short):
            return None
        ends = [self._ends[slot] for slot in step.slots[short].tolist()]
        concerned = step.rows[short]
        return {
            "concerned": concerned,
            "rows": np.repeat(concerned, [len(each) for each in ends]),
            "tokens": np.concatenate(ends),
        }

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> TokenRows:
        return TokenRows(there["rows"], there["tokens"], there["concerned"])

    def process(self, logits: Tensor, rows: TokenRows) -> None:
        # A number of the host's would be copied, and waited for.
        logits[rows.rows, rows.tokens] = torch.full(rows.rows.shape, -torch.inf, device=logits.device)
