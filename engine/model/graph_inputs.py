"""`GraphInputs`: what captured graphs read of a step, in buffers that stay where they are."""

import torch

from quire.engine.model.batch import Batch
from quire.kernels.adapters import NO_PLACE


class GraphInputs:
    """Tokens of a step, and padding behind them: position 0 of a block that no sequence holds.

    Attributes:
        input_ids, positions: int64 [max_tokens], on the device; all of them padding at first.
        slots: alike, of each cache group.
        adapters: int32 [max_tokens]: where each token's adapter lies; `NO_PLACE` at first.
    """

    def __init__(
        self, max_tokens: int, spare_block: int, block_size: int, device: torch.device, num_groups: int = 1
    ) -> None:
        self._spare_slot = spare_block * block_size
        room = torch.zeros(2 + num_groups, max_tokens, dtype=torch.int64, device=device)
        self.input_ids, self.positions, *self.slots = room.unbind()
        for slots in self.slots:
            slots.fill_(self._spare_slot)
        self.adapters = torch.full((max_tokens,), NO_PLACE, dtype=torch.int32, device=device)

    def fill(self, batch: Batch, size: int) -> None:
        """The batch's tokens, padded to `size`; what is padding keeps some token id."""
        num_tokens = len(batch.input_ids)
        self.input_ids[:num_tokens].copy_(batch.input_ids)
        self.positions[:num_tokens].copy_(batch.positions)
        for slots, paged in zip(self.slots, batch.paged, strict=True):
            slots[:num_tokens].copy_(paged.slot_mapping)
        if batch.adapters is not None:
            self.adapters[:num_tokens].copy_(batch.adapters)
            self.adapters[num_tokens:size].fill_(NO_PLACE)
        if num_tokens < size:
            self.positions[num_tokens:size].zero_()
            for slots in self.slots:
                slots[num_tokens:size].fill_(self._spare_slot)
