"""How fast: the bound that memory and arithmetic set to a step, over the share of it that steps reach.

    step ≥ max(bytes it must read / rate of reading, operations / rate of products)

A generation step reads the weights but the embedding, and the keys and values of its sequences. A context step is
bound by its operations.
Source of the bound: docs/notes/gpu.md, docs/notes/cpu_kernels.md.
"""

from dataclasses import dataclass

from quire.services.plan.machine import Machine
from quire.services.plan.memory import MemoryPlan
from quire.services.plan.model_size import ModelSize


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind, so many at once.

    Attributes:
        prompt_len, output_len: tokens of each.
    """

    num_sequences: int
    prompt_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What a load gets.

    Attributes:
        decode_ms: a step in which all generate, at the middle of their outputs: their inter-token latency.
        decode_tokens_s: output tokens per second of such steps.
        prefill_tokens_s: tokens per second of context.
        first_token_ms: of one request on an idle machine.
        seconds, output_tokens_s: of all requests, sent at once.
    """

    decode_ms: float
    decode_tokens_s: float
    prefill_tokens_s: float
    first_token_ms: float
    seconds: float
    output_tokens_s: float


def expected_speed(machine: Machine, model: ModelSize, memory: MemoryPlan, load: Load) -> Speed:
    """Steps of context and of generation one after the other, as if no step had both."""
    count = load.num_sequences
    context = load.prompt_len + load.output_len / 2
    decode = decode_seconds(machine, model, memory, count, context)
    prefill = prefill_seconds(machine, model, load.prompt_len)
    # A short prompt alone takes as long as a token; of many, a step computes several.
    alone = max(prefill, decode_seconds(machine, model, memory, 1, load.prompt_len))
    seconds = max(count * prefill, alone) + (load.output_len - 1) * decode
    return Speed(
        decode_ms=decode * 1e3,
        decode_tokens_s=count / decode,
        prefill_tokens_s=load.prompt_len / prefill,
        first_token_ms=alone * 1e3,
        seconds=seconds,
        output_tokens_s=count * load.output_len / seconds,
    )


def decode_seconds(machine: Machine, model: ModelSize, memory: MemoryPlan, num_sequences: int, context: float) -> float:
    """Of a step in which so many sequences generate, each with so many tokens before it."""
    moved = _read_bytes(model, memory) + num_sequences * context * memory.bytes_per_token
    operations = model.outline.operations(num_sequences, context, num_sequences)
    return max(moved / machine.read, operations / machine.multiply) / machine.decode_share(num_sequences)


def prefill_seconds(machine: Machine, model: ModelSize, num_tokens: int) -> float:
    """Of a prompt of so many tokens, of which nothing is cached, in steps that are full."""
    return model.outline.operations(num_tokens, num_tokens / 2, 1) / machine.multiply / machine.prefill


def _read_bytes(model: ModelSize, memory: MemoryPlan) -> float:
    """Of the weights in every step: all but an embedding that is not the output layer, of which only rows are read."""
    looked_up = 0 if model.outline.is_tied else model.outline.num_head
    return memory.weight_bytes - looked_up * memory.itemsize
