"""All of Quire's logits processors, in their order."""

from typing import Any

import torch

from quire.engine.model.features.penalties import SlotPenalties
from quire.engine.model.features.slot_feature import LogitsProcessor
from quire.kernels.suite import KernelSuite


def logits_processors(
    num_slots: int, vocab_size: int, device: torch.device, kernels: KernelSuite
) -> tuple[LogitsProcessor[Any], ...]:
    """What changes a value comes first, what forbids a token last: nothing allows it again."""
    return (SlotPenalties(num_slots, vocab_size, device, kernels.penalize),)
