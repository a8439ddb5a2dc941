"""`GraphInputs`: what captured graphs read of a step, in buffers that stay where they are."""

import torch

from quire.engine.model.batch import Batch


class GraphInputs:
    """Tokens of a step, and padding behind them: position 0 of a block that no sequence holds.

    Attributes:
        input_ids, positions, slots: int64 [max_tokens], on the device; all of them padding at first.
    """

    def __init__(self, max_tokens: int, spare_block: int, block_size: int, device: torch.device) -> None:
        self._spare_slot = spare_block * block_size
        room = torch.zeros(3, max_tokens, dtype=torch.int64, device=device)
        self.input_ids, self.positions, self.slots = room.unbind()
        self.slots.fill_(self._spare_slot)

    def fill(self, batch: Batch, size: int) -> None:
        """The batch's tokens, padded to `size`; what is padding keeps some token id."""
        num_tokens = len(batch.input_ids)
        self.input_ids[:num_tokens].copy_(batch.input_ids)
        self.positions[:num_tokens].copy_(batch.paged.positions)
        self.slots[:num_tokens].copy_(batch.paged.slot_mapping)
        if num_tokens < size:
            self.positions[num_tokens:size].zero_()
            self.slots[num_tokens:size].fill_(self._spare_slot)
