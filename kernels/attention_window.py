"""Of sliding windows: what a step may read. Blocks that have left the window of a row may be somebody else's by now."""

from dataclasses import replace

import numpy as np
import torch

from quire.kernels.attention import PagedBatch


def within_window(batch: PagedBatch, window: int | None, block_size: int) -> PagedBatch:
    """The batch without the blocks that no query of their row sees.

    Lengths then count from the first block that is left. To attention this makes no difference: it depends on how far
    queries and keys are apart.
    """
    if window is None:
        return batch
    unseen = batch.kv_lens - np.diff(batch.qo_indptr) + 1 - window
    skipped = np.maximum(unseen, 0) // np.int32(block_size)
    if not skipped.any():
        return batch
    counts = np.diff(batch.kv_indptr) - skipped
    kv_indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    moved = batch.kv_indptr[:-1] + skipped - kv_indptr[:-1]
    index = np.arange(kv_indptr[-1]) + np.repeat(moved, counts)
    return replace(
        batch,
        kv_indptr=kv_indptr,
        # Of rows that fill a captured size the blocks are on the device only.
        kv_indices=batch.kv_indices[index[index < len(batch.kv_indices)]],
        block_ids=batch.block_ids[torch.from_numpy(index).to(batch.block_ids.device, non_blocking=True)],
        kv_lens=batch.kv_lens - skipped * np.int32(block_size),
    )
