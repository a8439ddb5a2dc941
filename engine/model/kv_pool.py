"""The KV pool's size: how many blocks settings and memory allow. Knows no torch: `quire plan` asks, too."""

import logging

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig

logger = logging.getLogger(__name__)

_CPU_MIB = 512


def fixed_size(config: ExecutorConfig, per_block: int, is_gpu: bool) -> int | None:
    """Number of blocks from `num_blocks` or else `kv_memory_mib`; None: it depends on the device's free memory.

    Raises:
        StartupError: the memory does not hold one block.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    if config.kv_memory_mib is None and is_gpu:
        return None
    mib = config.kv_memory_mib or _CPU_MIB
    num_blocks = (mib << 20) // per_block
    if num_blocks < 1:
        raise StartupError(
            f"kv_memory_mib: {mib} MiB hold no block; one of {config.block_size} tokens takes {per_block} bytes, so it "
            f"must be at least {-(-per_block >> 20)}"
        )
    return num_blocks


def size_from_memory(config: ExecutorConfig, per_block: int, peak: int, total: int, others: int) -> int:
    """Number of blocks that fit beside everything else.

    Args:
        peak: bytes that weights, counts and the largest step take at once.
        total, others: bytes of the device, and those that other processes take.

    Raises:
        StartupError: nothing is left; the message has the numbers.
    """
    left = int(total * config.kv_memory_fraction) - others - peak
    gib = [f"{size / 2**30:.2f}" for size in (total, others, peak, left)]
    logger.info("GPU memory in GiB: %s, taken by others %s, weights and the largest step %s, left for KV %s", *gib)
    if left < per_block:
        raise StartupError(
            f"kv_memory_fraction: {config.kv_memory_fraction} of {gib[0]} GiB leaves {gib[3]} GiB beside {gib[1]} that "
            f"others take and {gib[2]} for weights and a step; one KV block takes {per_block} bytes"
        )
    return left // per_block
