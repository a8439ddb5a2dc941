"""What fits: weights, the pool of KV blocks, sequences."""

from dataclasses import dataclass
from typing import Final

from quire.engine.api.kv_cache_group import KVCacheGroup, blocks_for, tokens_in
from quire.engine.api.limits import MAX_INT32
from quire.engine.config import ExecutorConfig
from quire.engine.model.cache_groups import cache_layout
from quire.engine.model.kv_pool import fixed_size, size_from_memory
from quire.services.plan.machine import Machine
from quire.services.plan.model_size import ModelSize

ITEMSIZE: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# Of the step that an executor tries out at start, and what its attention takes for each kind of window.
_LARGEST_STEP: Final = 8192
_WORKSPACE_BYTES: Final = 1 << 29
_INT8_SCALE_BYTES: Final = 4
# Half a byte, and a float32 scale and a byte of zero for every 32.
_INT4_BYTES: Final = 0.5 + 5 / 32


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes and blocks of one executor.

    Attributes:
        dtype: that it computes with.
        weight_bytes, step_bytes: of the weights, and of a step and what slots remember, beside them.
        block_bytes: of one block.
        num_blocks, block_size: the pool, in blocks and in tokens per block.
        groups: cache groups of the model, in each of which a sequence has blocks.
        is_estimate: it depends on what a step takes, which the executor measures at start.
    """

    dtype: str
    weight_bytes: int
    step_bytes: int
    block_bytes: int
    num_blocks: int
    block_size: int
    groups: tuple[KVCacheGroup, ...]
    is_estimate: bool

    @property
    def num_tokens(self) -> int:
        """That the pool holds, of sequences that fill no window."""
        return self.num_blocks // len(self.groups) * self.block_size

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the pool holds."""
        return tokens_in(self.groups, self.num_blocks, self.block_size, MAX_INT32) + 1

    @property
    def itemsize(self) -> int:
        """Bytes of a number that it computes with."""
        return ITEMSIZE[self.dtype]

    @property
    def bytes_per_token(self) -> float:
        return self.block_bytes * len(self.groups) / self.block_size

    def num_sequences(self, length: int) -> int:
        """Sequences of so many tokens, prompt and generation, that the pool holds; the last token needs no KV."""
        return self.num_blocks // blocks_for(self.groups, length - 1, self.block_size)


def plan_memory(config: ExecutorConfig, model: ModelSize, machine: Machine) -> MemoryPlan:
    """
    Raises:
        StartupError: weights and a step do not fit, or the memory for the pool holds no block.
    """
    dtype = compute_dtype(config, model, machine)
    itemsize = ITEMSIZE[dtype]
    layout = cache_layout(model.outline.attention, config.block_size, config.max_model_len or model.max_model_len)
    per_block = layout.kv_numbers * (1 if config.kv_cache_dtype == "fp8" else itemsize)
    weights = _weight_bytes(config, model, itemsize)
    step = _step_bytes(config, model, itemsize) if machine.is_gpu else 0
    size = fixed_size(config, per_block, machine.is_gpu)
    is_estimate = size is None
    if size is None:
        size = size_from_memory(config, per_block, weights + step, machine.memory, others=0)
    return MemoryPlan(dtype, weights, step, per_block, size, config.block_size, layout.groups, is_estimate)


def compute_dtype(config: ExecutorConfig, model: ModelSize, machine: Machine) -> str:
    """As the executor chooses it; the CPUs that were measured multiply bfloat16 faster than float32."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if machine.is_gpu or model.dtype == "bfloat16" else "float32"


def _weight_bytes(config: ExecutorConfig, model: ModelSize, itemsize: int) -> int:
    parts = model.outline
    if config.quantization == "none":
        return parts.num_parameters * itemsize
    # The matrices of the layers have a scale for each output.
    rest = parts.num_parameters - parts.num_linear
    if config.quantization == "int4":
        return int(parts.num_linear * _INT4_BYTES) + rest * itemsize
    return parts.num_linear + parts.num_outputs * _INT8_SCALE_BYTES + rest * itemsize


def _step_bytes(config: ExecutorConfig, model: ModelSize, itemsize: int) -> int:
    """Activations of the largest step, logits twice in float32, attention's workspace, and each slot's counts."""
    widest = 2 * model.hidden_size + 3 * model.intermediate_size
    activations = _LARGEST_STEP * widest * itemsize
    logits = 2 * config.max_batch_size * model.vocab_size * 4
    counts = config.max_batch_size * (model.vocab_size + 3 * (model.max_model_len + 1)) * 4
    return activations + logits + counts + model.num_windows * _WORKSPACE_BYTES
