"""The `SlotAllowedTokens`: the only tokens that a request lets come."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.model.features.token_rows import TokenRows
from quire.engine.step import SequenceStart


class SlotAllowedTokens(LogitsProcessor[TokenRows]):
    """Token ids by slot."""

    def __init__(self) -> None:
        self._allowed: dict[int, NDArray[np.int64]] = {}

    def wants(self, params: SamplingParams) -> bool:
        return bool(params.allowed_token_ids)

    def start(self, start: SequenceStart) -> None:
        self._allowed[start.slot] = np.unique(np.array(start.sampling.allowed_token_ids, np.int64))

    def arrays(self, step: FeatureStep) -> Arrays:
        allowed = [self._allowed[slot] for slot in step.slots.tolist()]
        return {
            "restricted": step.rows,
            "rows": np.repeat(step.rows, [len(each) for each in allowed]),
            "tokens": np.concatenate(allowed),
        }

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> TokenRows:
        return TokenRows(there["rows"], there["tokens"], there["restricted"])

    def process(self, logits: Tensor, rows: TokenRows) -> None:
        kept = logits[rows.rows, rows.tokens]
        logits.index_fill_(0, rows.concerned, -torch.inf)
        logits[rows.rows, rows.tokens] = kept
