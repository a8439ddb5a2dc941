"""A logits processor: no token comes twice in a row."""

import torch
from torch import Tensor

from quire.engine.model.features.user_processor import ProcessedRows


def no_immediate_repeat(logits: Tensor, rows: ProcessedRows) -> None:
    """Forbids the newest token of each row, or takes the row's argument off its logit if that is a number."""
    newest = rows.token_ids.gather(1, rows.num_tokens.unsqueeze(1) - 1).long()
    offs = [argument if isinstance(argument, float) else torch.inf for argument in rows.arguments]
    off = torch.tensor(offs, pin_memory=logits.is_cuda).to(logits.device, non_blocking=True)
    logits.scatter_add_(1, newest, -off.unsqueeze(1))
