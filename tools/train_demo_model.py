"""Train the demo model: a byte-level BPE tokenizer and a tiny Llama, both from the Python standard library.

Everything is made from the sources of the running interpreter, so no download is needed. The result is
written in Hugging Face layout, with a README that records the settings and the held-out loss:

    python tools/train_demo_model.py --steps 2400 --minutes 25
"""

import argparse
import ast
import hashlib
import itertools
import json
import math
import platform
import sysconfig
import time
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

BOS: Final = "<s>"
EOS: Final = "</s>"
PAD: Final = "<pad>"
MAX_POSITIONS: Final = 2048
# Test data and generated tables teach a small model nothing it could show in a sample.
SKIPPED_FOLDERS: Final = frozenset({"site-packages", "test", "tests", "idle_test", "encodings", "__pycache__"})
SKIPPED_FILES: Final = frozenset({"pydoc_data/topics.py", "html/entities.py", "stringprep.py"})
# These hold the paths and compiler flags of the machine that built the interpreter.
SKIPPED_PREFIXES: Final = ("_sysconfigdata", "config-")
HELD_OUT_ONE_IN: Final = 50
WARMUP: Final = 0.04
FINAL_RATE: Final = 0.02


@dataclass(frozen=True)
class Phase:
    """A part of the training: up to which share of it, at what window length, with which attention."""

    until: float
    length: int
    attention: str


# Most tokens are learned in short windows, where plain attention is the fastest on a CPU. The last phase teaches
# distant rotary positions, where the fused kernel is faster.
PHASES: Final = (Phase(0.8, 256, "eager"), Phase(1.0, 1024, "sdpa"))


@dataclass(frozen=True)
class Settings:
    """What a run may choose."""

    out: Path
    steps: int
    minutes: float
    batch_tokens: int
    rate: float
    vocabulary: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What a run reports."""

    steps: int
    tokens: int
    minutes: float
    corpus_tokens: int
    nats_per_token: float
    bits_per_byte: float


def corpus(root: Path) -> dict[str, str]:
    """The library's source files by path relative to root, in a fixed order."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(name.parts) or name.parts[0].startswith(SKIPPED_PREFIXES):
            continue
        if name.as_posix() not in SKIPPED_FILES:
            with tokenize.open(path) as file:
                found[name.as_posix()] = file.read()
    return found


def is_held_out(name: str) -> bool:
    """Choose by a hash of the name: the split stays put when files are added or removed."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def functions(text: str) -> Iterator[str]:
    """The top-level functions of a file, each with its source lines."""
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            yield "".join(lines[node.lineno - 1 : node.end_lineno])


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE: every byte is in the alphabet, so any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """One stream of tokens in which every document stands between the begin and end tokens."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    encoded = tokenizer.encode_batch(documents, add_special_tokens=False)
    return torch.tensor(list(itertools.chain.from_iterable((bos, *one.ids, eos) for one in encoded)))


def batches(stream: torch.Tensor, length: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless shuffled batches of windows, each one token longer than length; every pass cuts elsewhere."""
    while True:
        offset = int(torch.randint(length, (1,), generator=generator))
        windows = stream[offset:].unfold(0, length + 1, length)
        order = torch.randperm(len(windows), generator=generator)
        for at in range(0, len(order), size):
            yield windows[order[at : at + size]]


def new_model(vocabulary: int) -> LlamaForCausalLM:
    """About 2.8 million parameters: 5.5 MB in bfloat16."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, window: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy in nats of every token in the windows given those before it."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
    targets = window[:, 1:].flatten()
    return functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction=reduction)


def rate_at(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a small share of the peak."""
    if progress < WARMUP:
        return peak * (progress / WARMUP + FINAL_RATE)
    cosine = (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP)))) / 2
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def new_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """AdamW that decays matrices only: norms are scales, and have no reason to shrink."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def train(model: LlamaForCausalLM, stream: torch.Tensor, settings: Settings) -> tuple[int, int, float]:
    """Train in phases; return the steps, the tokens and the minutes it took.

    Progress counts steps, unless the clock is ahead: then the schedule ends with the time that is left.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = new_optimizer(model)
    start, step, tokens, progress = time.monotonic(), 0, 0, 0.0
    for phase in PHASES:
        model.set_attn_implementation(phase.attention)
        feed = batches(stream, phase.length, settings.batch_tokens // phase.length, generator)
        while progress < phase.until:
            window = next(feed)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(progress, settings.rate)
            loss = loss_of(model, window)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step, tokens = step + 1, tokens + window[:, 1:].numel()
            minutes = (time.monotonic() - start) / 60
            progress = max(step / settings.steps, minutes / settings.minutes)
            if step % 50 == 0:
                print(f"step {step} loss {loss.item():.3f} tokens {tokens} minutes {minutes:.1f}", flush=True)
    return step, tokens, (time.monotonic() - start) / 60


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, stream: torch.Tensor, length: int = 1024) -> float:
    """The summed nats of a stream, read in windows that do not share their targets."""
    starts = range(0, len(stream) - 1, length)
    return sum(float(loss_of(model, stream[None, at : at + length + 1], "sum")) for at in starts)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the Hugging Face layout."""
    model.save_pretrained(out)
    # The writer of safetensors leaves the file to its owner alone, but package data is for every user.
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def readme(settings: Settings, outcome: Outcome) -> str:
    """The model card."""
    windows = ", ".join(f"{phase.length} up to {phase.until:.0%} of the run" for phase in PHASES)
    return f"""# Quire demo model

A Llama of about 2.8 million parameters in bfloat16, with its own byte-level BPE tokenizer of
{settings.vocabulary} tokens. It writes text that looks like Python, and is meant for trying the server and
for tests; nothing it says is reliable. This file is written by `tools/train_demo_model.py`.

## Result

| | |
|---|---|
| held-out loss | {outcome.nats_per_token:.4f} nats per token |
| held-out bits per byte | {outcome.bits_per_byte:.4f} |
| tokens trained on | {outcome.tokens:,} ({outcome.tokens / outcome.corpus_tokens:.2f} passes) |
| optimiser steps | {outcome.steps} of {settings.steps} |
| training time | {outcome.minutes:.1f} minutes on {settings.threads} CPU threads |

The loss is that of the stored bfloat16 weights, over all tokens of the held-out files in windows of 1024.
Held out is each file for which the SHA-256 of its path, modulo {HELD_OUT_ONE_IN}, is 0.

## Tokens

`<s>` is 0, `</s>` is 1 and `<pad>` is 2. In training every document stood between `<s>` and `</s>`. A
document is a file or, once more, one of its top-level functions, so that the model learns where to end. Most
training windows begin in the middle of a document, so a prompt needs no `<s>`, and the tokenizer adds none;
put `<s>` first to ask for the beginning of a document.

## Settings

AdamW (betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped to 1), peak rate
{settings.rate}, linear warm-up over {WARMUP:.0%}, then cosine to {FINAL_RATE:.0%} of the peak;
{settings.batch_tokens} tokens a step; window lengths: {windows}. Positions from 1024 to
{MAX_POSITIONS - 1} work but were never trained. Seed {settings.seed}. To make it again:

    python tools/train_demo_model.py --steps {settings.steps} --minutes {settings.minutes:g}

The clock ends a run early where the machine is slow, and then the result differs.

## Training data and licence

The standard library's own `*.py` files of CPython {platform.python_version()}, without tests, `encodings` and
generated tables. Copyright (c) 2001 Python Software Foundation; all rights reserved. They are used under the
PSF License Agreement (PSF-2.0), https://docs.python.org/3/license.html, and the model can repeat parts of
them.
"""


def parse_arguments() -> Settings:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(__file__).resolve().parents[1] / "engine" / "demo_model"
    parser.add_argument("--out", type=Path, default=folder, help="folder that receives the model")
    parser.add_argument("--steps", type=int, default=2400, help="optimiser steps")
    parser.add_argument("--minutes", type=float, default=25.0, help="upper limit on training time")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return Settings(**vars(parser.parse_args()))


def main() -> None:
    """Make the tokenizer, the model and the README."""
    settings = parse_arguments()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    files = corpus(Path(sysconfig.get_path("stdlib")))
    learned = [text for name, text in files.items() if not is_held_out(name)]
    held_out = [text for name, text in files.items() if is_held_out(name)]
    tokenizer = train_tokenizer(learned, settings.vocabulary)
    parts = [part for text in learned for part in functions(text)]
    stream, unseen = encode(tokenizer, learned + parts), encode(tokenizer, held_out)
    print(f"{len(stream)} tokens to learn from, {len(unseen)} held out", flush=True)
    model = new_model(settings.vocabulary)
    steps, tokens, minutes = train(model, stream, settings)
    nats = evaluate(model.bfloat16(), unseen)
    bits_per_byte = nats / math.log(2) / sum(len(text.encode()) for text in held_out)
    outcome = Outcome(steps, tokens, minutes, len(stream), nats / (len(unseen) - 1), bits_per_byte)
    settings.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, settings.out)
    (settings.out / "README.md").write_text(readme(settings, outcome))
    print(outcome)


if __name__ == "__main__":
    main()
