"""The KV pool's size: how many blocks the settings allow."""

import torch

from quire.engine.config import ExecutorConfig
from quire.engine.errors import StartupError
from quire.engine.model.model_config import ModelConfig


def pool_size(config: ExecutorConfig, model: ModelConfig, dtype: torch.dtype) -> int:
    """Number of blocks, from `num_blocks` or else from `kv_memory_mib`.

    Raises:
        StartupError: the memory does not hold one block.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    per_token = model.num_layers * 2 * model.num_kv_heads * model.head_dim * dtype.itemsize
    per_block = per_token * config.block_size
    num_blocks = (config.kv_memory_mib << 20) // per_block
    if num_blocks < 1:
        raise StartupError(
            f"kv_memory_mib: {config.kv_memory_mib} MiB hold no block; one of {config.block_size} tokens takes "
            f"{per_block} bytes, so it must be at least {-(-per_block >> 20)}"
        )
    return num_blocks
