#!/usr/bin/env python3
"""What low-rank adapters cost a step: 32 sequences without any, with one for all, and with one each.

  python benchmarks/adapters.py [--model DIR | --shape 1b] [--device cpu] [--rank 16] [--modules all] [--sequences 32]

Without --model, the shape of Llama 3.2 1B or 3.1 8B, random weights. Steps of an executor that takes no adapters and
of one that holds all of them follow one another, one of each kind in every round. A row has the median of its steps in
ms, and the median and the middle half of their ratios to the first kind's step of the same round.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.api.adapter import Adapter
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.preparation import AdapterPreparation
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.weights.checkpoint import read_checkpoint

BLOCK_SIZE = 16
MODULES = {
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "v_proj"),
}
SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}
NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class Kind:
    """A kind of steps.

    Attributes:
        executor: that computes them.
        adapters: digest of each sequence's; "": it has none.
    """

    name: str
    executor: Executor
    adapters: Sequence[str]


def write_model(folder: Path, shape: str, num_layers: int | None) -> Path:
    sizes = SHAPES[shape] if num_layers is None else SHAPES[shape] | {"num_hidden_layers": num_layers}
    config = LlamaConfig(
        **sizes, num_attention_heads=32, num_key_value_heads=8, vocab_size=32000, max_position_embeddings=4096,
        tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    return folder


def write_adapter(folder: Path, linears: dict[str, tuple[int, int]], rank: int, seed: int) -> Path:
    """Random matrices for linear layers, by name: (out, in) of each."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, size) in linears.items():
        for end, shape in (("A", (rank, size)), ("B", (out, rank))):
            tensors[f"base_model.model.{name}.lora_{end}.weight"] = torch.randn(shape, generator=generator) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    return folder


def shapes(model: Path, modules: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(out, in) of the layers that get matrices, by name in the checkpoint."""
    tensors = read_checkpoint(model).tensors
    return {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if name.endswith(tuple(f"{module}.weight" for module in modules))
    }


def start(kind: Kind, context: int, blocks: int) -> None:
    """Puts sequences of so many tokens into all slots, whose keys and values are zeros."""
    starts = [
        SequenceStart(
            slot=slot,
            token_ids=np.random.default_rng(slot).integers(3, 300, context).astype(np.int32),
            num_computed=context - 1,
            block_table=np.arange(slot * blocks, (slot + 1) * blocks, dtype=np.int32),
            num_prompt=context,
            sampling=SamplingParams(temperature=0, seed=0),
            adapter=adapter,
        )
        for slot, adapter in enumerate(kind.adapters)
    ]
    slots = np.arange(len(starts), dtype=np.int32)
    kind.executor.execute(plan(tuple(starts), slots, np.ones_like(slots), NOTHING))


def plan(
    starts: tuple[SequenceStart, ...], context: np.ndarray, tokens: np.ndarray, generation: np.ndarray
) -> StepPlan:
    return StepPlan(
        step=0, copies=np.empty((0, 2), np.int32), starts=starts, append_slots=NOTHING, append_blocks=NOTHING,
        context_slots=context, context_tokens=tokens, generation_slots=generation,
    )  # fmt: skip


def step(kind: Kind) -> float:
    """Seconds of one generation step."""
    began = time.perf_counter()
    kind.executor.execute(plan((), NOTHING, NOTHING, np.arange(len(kind.adapters), dtype=np.int32)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="1b")
    parser.add_argument("--layers", type=int, help="of the shape; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--modules", choices=tuple(MODULES), default="all")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        model = args.model or write_model(Path(home) / "model", args.shape, args.layers)
        linears, count = shapes(model, MODULES[args.modules]), args.sequences
        folders = [write_adapter(Path(home) / str(seed), linears, args.rank, seed) for seed in range(count)]
        blocks = -(-(args.context + 4 * args.rounds + 8) // BLOCK_SIZE)
        config = ExecutorConfig(
            model=str(model), dtype="bfloat16", device=args.device, max_batch_size=count, num_blocks=count * blocks,
            max_adapters=0,
        )  # fmt: skip
        without = Executor(config)
        holding = Executor(config.model_copy(update={"max_adapters": count, "max_adapter_rank": max(64, args.rank)}))
        digests = []
        for place, folder in enumerate(folders):
            adapter: Adapter = holding.examine(folder.name, str(folder))
            holding.prepare(AdapterPreparation(adapter, place))
            digests.append(adapter.digest)
    kinds = [
        Kind("takes no adapters", without, [""] * count),
        Kind(f"holds {count}, no row has one", holding, [""] * count),
        Kind("one for all rows", holding, digests[:1] * count),
        Kind(f"{count} different ones", holding, digests),
    ]
    times: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            start(kind, args.context, blocks)
            step(kind)
            times[kind.name].append(statistics.median(step(kind) for _ in range(3)))
    print(
        f"{args.device}, rank {args.rank} of {args.modules} linear layers, {count} sequences of {args.context} tokens"
    )
    for name, found in times.items():
        ratios = np.divide(found, times[kinds[0].name])
        low, median, high = np.percentile(ratios, (25, 50, 75))
        print(f"{name:32}{statistics.median(found) * 1e3:9.2f} ms  {median:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
