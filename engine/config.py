"""Settings of the engine: frozen, validated, each field's docstring is its `--help` text."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

# User and password of a URL, also of a broken one, and passwords among its options: no message repeats them.
_PASSWORD = re.compile(r"(?<=//).*@|(?<=password=)[^&']+")


class EngineConfig(BaseModel):
    """Base of all settings: immutable, unknown names refused, docstrings kept as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExecutorConfig(EngineConfig):
    """One model on one device."""

    model: str | None = None
    """Hugging Face folder or hub id; default: the demo model shipped with Quire."""

    model_impl: Literal["auto", "quire", "transformers"] = "auto"
    """Whose code computes the model; transformers: that library's, with our attention, slower; auto: ours where it has
    the model's family."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type; auto: bfloat16 on a GPU; on a CPU bfloat16 for bfloat16 checkpoints where the native kernels use
    AMX or AVX512-BF16, otherwise float32 (for float16 checkpoints too)."""

    quantization: Literal["none", "int8", "int4", "fp8"] = "none"
    """What weights are brought into that the checkpoint has as plain numbers; int8: 8-bit integers with a scale for
    each output, half the memory of bfloat16; int4: 4-bit integers with scale and zero for every 32 inputs, a third;
    fp8: e4m3, on a GPU with fp8 tensor cores."""

    logits_processors: tuple[str, ...] = ()
    """Logits processors of installed packages that requests may name; repeatable."""

    max_adapters: int | None = Field(None, ge=0, le=1024)
    """Low-rank adapters that lie beside the weights at once; a further one takes the place of the least recently used;
    0: none. Default: 8 on a CPU, and 0 on a GPU, where graphs are captured twice for them."""

    max_adapter_rank: int = Field(64, ge=1, le=256)
    """The highest rank of an adapter's matrices."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""

    kernels: Literal["auto", "native", "cuda", "torch"] = "auto"
    """What computes; native: C++ for CPUs, cuda: FlashInfer and Triton, both compiled at first use; auto: the fastest
    there is."""

    cuda_graphs: bool = True
    """Replay generation steps as CUDA graphs where the kernels can; they are captured at start."""

    attention: Literal["auto", "native", "cuda", "torch"] = "auto"
    """Attention kernels: the name of `kernels`, or torch; auto: those of `kernels`, or torch where they cannot compute
    the model's attention."""

    num_threads: int | None = Field(None, ge=1)
    """Threads that compute on a CPU; default: as many as there are cores."""

    block_size: int = Field(16, ge=1, le=256)
    """Tokens per KV block."""

    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    """Type of the keys and values that are kept; fp8: e4m3 with the checkpoint's scales, or 1, half the memory of
    bfloat16; auto: the compute type."""

    num_blocks: int | None = Field(None, ge=1)
    """Blocks in the KV pool, each of block_size tokens in the layers of one cache group; default: what kv_memory_mib
    holds."""

    kv_memory_mib: int | None = Field(None, ge=1)
    """Memory of the KV pool in MiB, where num_blocks is not given; default: 512 on a CPU, what kv_memory_fraction
    leaves on a GPU."""

    kv_memory_fraction: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory that weights, a step and the KV pool may take together."""

    max_batch_size: int = Field(256, ge=1, le=4096)
    """Sequences that run at once; at most as many as a step has tokens."""

    max_model_len: int | None = Field(None, ge=2)
    """Tokens of prompt and generation together; at most what the model reaches, by the scaling of rotary positions that
    its config.json names; default: its max_position_embeddings."""


class ChatConfig(EngineConfig):
    """How a model chats, where its folder does not say so."""

    chat_template: Path | None = None
    """File with the Jinja template that makes a prompt of messages; default: what the model's folder has."""

    tool_call_format: Literal["auto", "none", "hermes", "qwen3_coder", "llama3", "mistral", "deepseek"] = "auto"
    """How the model writes tool calls; auto: as its chat template has them."""

    reasoning_format: Literal["auto", "none", "think"] = "auto"
    """How the model writes what it thinks before it answers; think: between <think> and </think>; auto: so, if its chat
    template knows them."""

    request_chat_templates: bool = True
    """Take chat templates from requests; each runs in a process with bounds of time and memory."""


class SchedulerConfig(EngineConfig):
    """How each executor's steps are filled."""

    max_num_tokens: int | None = Field(None, ge=1)
    """Token budget of one step, context and generation together; default: what the executor suggests, 512 on a CPU and
    8192 on a GPU."""

    capacity_policy: str = "GUARANTEED_NO_EVICT"
    """Who may hold KV blocks: GUARANTEED_NO_EVICT, MAX_UTILIZATION, STATIC_BATCH, or a plug-in's name."""

    micro_batch_policy: str = "FIRST_COME_FIRST_SERVED"
    """How sequences share what a step has left for context: FIRST_COME_FIRST_SERVED, EQUAL_PROGRESS, or a plug-in's
    name."""

    tenant_policy: str = "TOKEN_SHARES"
    """Whose turn it is among tenants: TOKEN_SHARES, by the tokens computed for each, as their weights are;
    ARRIVAL_ORDER, tenants are not told apart; or a plug-in's name."""

    kv_cache_manager: str = "PAGED"
    """Which blocks sequences get and find in the cache: PAGED, or a plug-in's name."""

    resource_managers: tuple[str, ...] = ()
    """Plug-ins that manage further resources of sequences, by name, in the order in which they are asked."""

    target_itl_ms: float | None = Field(None, gt=0)
    """Inter-token latency to aim at, by smaller context chunks while sequences generate; default: what the executor
    suggests while no more context waits than two steps hold, 100 on a CPU and no aim on a GPU."""

    max_waiting_requests: int = Field(1024, ge=1)
    """Requests that may wait; more are refused with RESOURCE_EXHAUSTED."""

    max_waiting_tokens: int = Field(4_194_304, ge=1)
    """Context tokens that may wait; more are refused with RESOURCE_EXHAUSTED."""

    priority_ageing_s: float = Field(10.0, gt=0)
    """Seconds of waiting that count as much as one level of priority."""

    max_passes: int = Field(32, ge=0)
    """Requests that may start ahead of one that came before them and does not fit yet."""


class Mistake(NamedTuple):
    """What is wrong with one setting."""

    location: tuple[int | str, ...]
    reason: str

    @property
    def setting(self) -> str:
        return ".".join(map(str, self.location))


def mistakes(error: ValidationError) -> list[Mistake]:
    """Everything that pydantic has found, in a line each, with the value but no password of a URL."""
    return [Mistake(problem["loc"], _reason(problem)) for problem in error.errors()]


def _reason(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    given = "" if problem["type"] == "missing" else f", got {_redacted(problem['input'])}"
    # As a validator of ours puts it.
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}{given}"


def _redacted(value: object) -> str:
    return _PASSWORD.sub(lambda found: "***@" if found[0].endswith("@") else "***", repr(value))
