"""`quire plan`: sizes an executor before there is one."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig
from quire.engine.model.source import resolve_model
from quire.services.common.settings import ProcessSettings
from quire.services.plan.machine import Machine, machine
from quire.services.plan.memory import MemoryPlan, plan_memory
from quire.services.plan.model_size import ModelSize, read_model_size
from quire.services.plan.speed import Load, Speed, expected_speed

_MIB, _GIB = 1 << 20, 1 << 30
_CONCURRENCY: Final = (1, 16, 64, 256)


class Settings(ProcessSettings, ExecutorConfig):
    """Say what fits on a machine and how fast it is expected to be. Takes an executor's settings."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_PLAN_")

    gpu: str = "h200"
    """Machine: h200 and h100 were measured; b200, a100-80gb, l40s, l4 and rtx-4090 are estimated from their
    specifications; xeon-amx-2 and epyc-2 are two cores of a CPU."""

    prompt_len: int = Field(1024, ge=1)
    """Tokens of each prompt."""

    output_len: int = Field(256, ge=1)
    """Tokens that each request generates."""

    concurrency: list[int] = Field(default_factory=list)
    """Requests at once; repeatable; default: 1, 16, 64 and 256."""

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs for one model; only 1 is supported."""

    json_output: bool = Field(False, alias="json")
    """Print one JSON object for programs."""

    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    """Least severe messages to log."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is said.

    Attributes:
        num_sequences: requests of these lengths that run at once.
        speeds: of the loads that do.
        is_estimate: no step of this type was measured on this machine.
    """

    machine: Machine
    model: ModelSize
    memory: MemoryPlan
    num_sequences: int
    speeds: list[tuple[Load, Speed]]
    is_estimate: bool


def run(settings: Settings) -> int:
    """Returns the exit code."""
    plan = make_plan(settings)
    print(json.dumps(_as_json(plan), default=str) if settings.json_output else _as_text(settings, plan))
    return 0


def make_plan(settings: Settings) -> Plan:
    """
    Raises:
        StartupError: a setting does not suit the machine or the model, or nothing fits.
    """
    place = machine(settings.gpu)
    config = ExecutorConfig(**settings.model_dump(include=set(ExecutorConfig.model_fields)))
    model = read_model_size(resolve_model(config.model, weights=False), config.model_impl)
    _check(settings, place, model)
    memory = plan_memory(config, model, place)
    fits = min(memory.num_sequences(settings.prompt_len + settings.output_len), config.max_batch_size)
    if not fits:
        raise StartupError(
            f"--prompt-len {settings.prompt_len} and --output-len {settings.output_len}: must be at most "
            f"{memory.longest} together, as the KV pool has {memory.num_blocks} blocks of {memory.block_size}"
        )
    counts = settings.concurrency or _CONCURRENCY
    loads = [Load(count, settings.prompt_len, settings.output_len) for count in counts if count <= fits]
    speeds = [(load, expected_speed(place, model, memory, load)) for load in loads]
    is_other_type = memory.dtype == "float32" or config.quantization != "none" or config.kv_cache_dtype != "auto"
    return Plan(place, model, memory, fits, speeds, place.is_estimate or is_other_type)


def _check(settings: Settings, place: Machine, model: ModelSize) -> None:
    if settings.tensor_parallel_size > 1:
        raise StartupError(
            f"--tensor-parallel-size {settings.tensor_parallel_size}: must be 1, as an executor computes on one GPU; "
            "several executors share requests instead"
        )
    kind = "cuda" if place.is_gpu else "cpu"
    if settings.device not in ("auto", kind):
        raise StartupError(f"--device {settings.device}: must be {kind} or auto, as --gpu is {place.name}")
    for count in settings.concurrency:
        if count < 1:
            raise StartupError(f"--concurrency {count}: must be at least 1")
    longest = settings.max_model_len or model.max_model_len
    if settings.prompt_len + settings.output_len > longest:
        raise StartupError(
            f"--prompt-len {settings.prompt_len} and --output-len {settings.output_len}: must be at most {longest} "
            "together, the length of a sequence"
        )


def _as_json(plan: Plan) -> dict[str, Any]:
    model, memory = plan.model, plan.memory
    return {
        "machine": asdict(plan.machine),
        "model": model.figures(),
        "memory": {
            **asdict(memory),
            "num_tokens": memory.num_tokens,
            "bytes_per_token": memory.bytes_per_token,
            "num_sequences": plan.num_sequences,
        },
        "speed": [{**asdict(load), **asdict(speed)} for load, speed in plan.speeds],
        "is_estimate": plan.is_estimate,
    }


def _as_text(settings: Settings, plan: Plan) -> str:
    model, memory, place = plan.model, plan.memory, plan.machine
    about = "about " if memory.is_estimate else ""
    stored = f", {_size(model.stored_bytes)} as stored" if model.stored_bytes is not None else ""
    longest = settings.max_model_len or model.max_model_len
    lines = [
        place.title + (f", {_size(place.memory)}" if place.memory else "") + f", {memory.dtype}",
        f"  weights  {_size(memory.weight_bytes)}, {model.outline.num_parameters:,} parameters{stored}",
        *([f"  a step   about {_size(memory.step_bytes)}; an executor measures it"] if place.is_gpu else []),
        f"  KV       {memory.bytes_per_token:,.0f} bytes a token, {memory.block_bytes:,} bytes a block",
        f"  pool     {about}{memory.num_blocks:,} blocks of {memory.block_size}, {memory.num_tokens:,} tokens",
        f"  fits     {about}{plan.num_sequences:,} sequences of {settings.prompt_len} + {settings.output_len} tokens; "
        f"{memory.num_sequences(longest):,} of {longest:,}",
        "",
        "  at once   decode step   decode tokens/s   prefill tokens/s   first token    all done   output tokens/s",
        *(_row(load, speed) for load, speed in plan.speeds),
        *(
            f"  {count:>7,}   does not fit at once: {count - plan.num_sequences:,} wait"
            for count in settings.concurrency or _CONCURRENCY
            if count > plan.num_sequences
        ),
        "",
        "  estimated from:" if plan.is_estimate else "  from what was measured there:",
        *(f"    {source.number}: {source.source}, {source.when}" for source in place.sources),
    ]
    return "\n".join(lines)


def _row(load: Load, speed: Speed) -> str:
    return (
        f"  {load.num_sequences:>7,}{speed.decode_ms:>11.2f} ms{speed.decode_tokens_s:>18,.0f}"
        f"{speed.prefill_tokens_s:>19,.0f}{speed.first_token_ms:>11.1f} ms{speed.seconds:>10.2f} s"
        f"{speed.output_tokens_s:>18,.0f}"
    )


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / _MIB:.1f} MiB"
