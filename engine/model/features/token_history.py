"""The `TokenHistory`: the tokens of some slots on the device, where the newest are before the host knows them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.model.features.slot_feature import Arrays, FeatureStep


def history_bytes(num_slots: int, max_model_len: int) -> int:
    """Bytes on the device once every slot has a history."""
    return num_slots * (max_model_len + 1) * torch.int32.itemsize


class TokenHistory:
    """Token ids, int32 [up to num_slots, max_model_len + 1]: a step may sample one that is dropped.

    The slots up to the highest that was ever used take memory, in powers of two.
    """

    def __init__(self, num_slots: int, max_model_len: int, device: torch.device) -> None:
        self._num_slots = num_slots
        self._tokens = torch.zeros(0, max_model_len + 1, dtype=torch.int32, device=device)
        # Known tokens of slots that have not sampled since they started.
        self._started: dict[int, Int32Array] = {}

    def reset(self) -> None:
        """Forget every slot."""
        self._started.clear()

    def start(self, slot: int, token_ids: Int32Array) -> None:
        """A sequence with these tokens takes a slot."""
        self._started[slot] = token_ids.copy()

    def arrays(self, step: FeatureStep) -> Arrays:
        """What `write` needs on the device, and `slots` and `num_tokens` of the step, int64 [n]."""
        arrays: Arrays = {"slots": step.slots.astype(np.int64), "num_tokens": step.num_tokens.astype(np.int64)}
        if self._started and (started := [slot for slot in step.slots.tolist() if slot in self._started]):
            known = [self._started.pop(slot) for slot in started]
            width = self._tokens.shape[1]
            places = [slot * width + np.arange(len(each)) for slot, each in zip(started, known, strict=True)]
            arrays["places"] = np.concatenate(places)
            arrays["known"] = np.concatenate(known)
            self._reserve(max(started))
        return arrays

    def write(self, there: Mapping[str, Tensor]) -> Tensor:
        """Writes the tokens of slots that started; all tokens."""
        if "places" in there:
            self._tokens.view(-1).scatter_(0, there["places"], there["known"])
        return self._tokens

    def append(self, slots: Tensor, num_tokens: Tensor, token_ids: Tensor) -> None:
        """Each slot has sampled a token behind its `num_tokens` earlier ones; all int64 [n], on the device."""
        self._tokens[slots, num_tokens] = token_ids.int()

    def _reserve(self, slot: int) -> None:
        if slot >= len(self._tokens):
            size = min(1 << slot.bit_length(), self._num_slots)
            grown = self._tokens.new_zeros(size, self._tokens.shape[1])
            grown[: len(self._tokens)] = self._tokens
            self._tokens = grown
