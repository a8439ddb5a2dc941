#!/usr/bin/env python3
"""What int8 and int4 weights, or an fp8 cache, cost in quality: loss of a text, and how often the next token changes.

  python benchmarks/quantization_loss.py [--model DIR] [--window 512] [--kv-cache-dtype fp8] [FILE]...

Without files: Python sources of the standard library that the demo model was not trained on. Every window is one
step of the executor, whose logits of all positions count.
"""

import argparse
import math
import sys
import sysconfig
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.model.model_engine import ModelEngine
from quire.engine.model.placement import place
from quire.engine.model.slots import Slots
from quire.engine.model.source import resolve_model
from quire.engine.resources.kv_cache_spec import MAX_GROUPS
from quire.engine.step import SequenceStart, StepPlan
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.weights.checkpoint import read_checkpoint

sys.path.append(str(Path(__file__).parent.parent / "tools"))
from train_demo_model import corpus, is_held_out

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Kind:
    """How a model is computed."""

    dtype: str
    quantization: str = "none"
    kv_cache_dtype: str = "auto"

    def __str__(self) -> str:
        weights = self.dtype if self.quantization == "none" else f"{self.quantization}, {self.dtype} beside"
        return weights if self.kv_cache_dtype == "auto" else f"{weights}, keys and values {self.kv_cache_dtype}"


WEIGHTS = (Kind("float32"), Kind("bfloat16"), Kind("bfloat16", "int8"), Kind("bfloat16", "int4"))
CACHES = (Kind("float32"), Kind("float32", kv_cache_dtype="fp8"), Kind("bfloat16", kv_cache_dtype="fp8"))


@dataclass(frozen=True)
class Judge:
    """A model computed in one way."""

    engine: ModelEngine
    vocab_size: int

    @classmethod
    def load(cls, model: str | None, window: int, kind: Kind) -> "Judge":
        # Of each cache group of the model.
        num_blocks = MAX_GROUPS * (-(-window // BLOCK_SIZE) + 1)
        config = ExecutorConfig(model=model, device="cpu", num_blocks=num_blocks, **asdict(kind))
        checkpoint = read_checkpoint(resolve_model(model))
        return cls(ModelEngine(config, checkpoint, place(config, checkpoint)), checkpoint.config.vocab_size)

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> Tensor:
        """[len(tokens), vocab_size] float32."""
        groups, count = self.engine.layout.groups, len(tokens)
        table = np.arange(len(groups) * (-(-count // BLOCK_SIZE) + 1), dtype=np.int32)
        slots = Slots(
            num_slots=1, max_model_len=count + 1, block_size=BLOCK_SIZE, num_blocks=len(table),
            vocab_size=self.vocab_size, device=self.engine.device, groups=groups,
        )  # fmt: skip
        start = SequenceStart(
            slot=0,
            token_ids=np.array(tokens, np.int32),
            num_computed=0,
            block_table=table,
            num_prompt=count,
            sampling=SamplingParams(temperature=0, seed=0),
        )
        nothing, slot = np.empty(0, np.int32), np.zeros(1, np.int32)
        plan = StepPlan(
            step=1, copies=np.empty((0, 2), np.int32), starts=(start,), append_slots=nothing, append_blocks=nothing,
            context_slots=slot, context_tokens=np.array([count], np.int32), generation_slots=nothing,
        )  # fmt: skip
        return self.engine.forward(replace(slots.apply(plan), last_tokens=torch.arange(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=200, help="at most")
    parser.add_argument("--kv-cache-dtype", choices=["auto", "fp8"], default="auto", help="fp8: judge that alone")
    args = parser.parse_args()
    texts = [path.read_text() for path in args.files] or [
        text for name, text in corpus(Path(sysconfig.get_paths()["stdlib"])).items() if is_held_out(name)
    ]
    tokenizer = Tokenizer.load(resolve_model(args.model))
    tokens = np.concatenate([tokenizer.encode(text) for text in texts])
    windows = [tokens[i : i + args.window].tolist() for i in range(0, len(tokens) - args.window, args.window)]
    windows = windows[: args.windows]
    kinds = WEIGHTS if args.kv_cache_dtype == "auto" else CACHES
    reference = Judge.load(args.model, args.window, kinds[0])
    print(f"{len(windows)} windows of {args.window} tokens")
    print("| computed in | nats per token | perplexity | to float32 | other most likely token |")
    print("|---|---|---|---|---|")
    first = None
    for kind in kinds:
        judge = Judge.load(args.model, args.window, kind)
        loss, changed = 0.0, 0
        for window in windows:
            logits, wanted = judge.logits(window)[:-1], reference.logits(window)[:-1]
            loss += float(functional.cross_entropy(logits, torch.tensor(window[1:]))) / len(windows)
            changed += int((logits.argmax(1) != wanted.argmax(1)).sum())
        first = loss if first is None else first
        share = changed / (len(windows) * (args.window - 1))
        print(f"| {kind} | {loss:.5f} | {math.exp(loss):.4f} | {loss - first:+.5f} | {share:.2%} |", flush=True)


if __name__ == "__main__":
    main()
