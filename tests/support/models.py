"""Tiny random models in Hugging Face layout, and what transformers makes of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from quire.engine.demo_model import DEMO_MODEL

VOCAB_SIZE: Final = 512
MAX_MODEL_LEN: Final = 1024
# Smaller than most prompts of the tests.
SLIDING_WINDOW: Final = 48
# So many that a random model meets one of them every few dozen tokens.
EOS_TOKEN_IDS: Final = tuple(range(300, 316))

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_MODEL_LEN,
    # Wide enough that attention has a say in which token comes next.
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": list(EOS_TOKEN_IDS),
    "tie_word_embeddings": False,
}
_FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=SLIDING_WINDOW)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=32)),
}
FAMILIES: Final = tuple(_FAMILIES)


def write_model(folder: Path, family: str, seed: int = 0) -> Path:
    """Writes a random float32 model with a byte-level tokenizer; returns the folder."""
    torch.manual_seed(seed)
    _FAMILIES[family]().save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    vocab |= {f"<{index}>": index for index in range(len(alphabet), VOCAB_SIZE)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_wide_model(folder: Path, max_model_len: int, vocab_size: int = VOCAB_SIZE) -> Path:
    """Writes a random bfloat16 Llama with heads of 128, as GPUs' kernels want, and the demo model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=max_model_len, initializer_range=0.05,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    return folder


def load_reference(folder: Path) -> PreTrainedModel:
    """The model as transformers has it, in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def reference_greedy(model: PreTrainedModel, prompt: Iterable[int], max_tokens: int, *, ignore_eos: bool) -> list[int]:
    """What `generate` adds to a prompt, an end token included."""
    token_ids = torch.tensor([list(prompt)])
    eos_token_id = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None if ignore_eos else eos_token_id
    try:
        output = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=0,
        )
    finally:
        model.generation_config.eos_token_id = eos_token_id
    added: list[int] = output[0, token_ids.shape[1] :].tolist()
    return added


@dataclass(frozen=True, slots=True)
class ReferenceBeam:
    """An answer of beam search, as transformers has it.

    Attributes:
        token_ids: that were generated, an end token included.
        score: the sum of their log-probabilities over their number to the power of the length penalty.
    """

    token_ids: tuple[int, ...]
    score: float


def reference_beams(
    model: PreTrainedModel,
    prompt: Iterable[int],
    width: int,
    max_tokens: int,
    *,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    eos_token_ids: Iterable[int] = (),
) -> list[ReferenceBeam]:
    """All answers that `generate` finds, the best first; it ends at `eos_token_ids` and at no others."""
    token_ids = torch.tensor([list(prompt)])
    kept, model.generation_config.eos_token_id = model.generation_config.eos_token_id, list(eos_token_ids) or None
    try:
        output: Any = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            num_beams=width,
            num_return_sequences=width,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=max_tokens,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    finally:
        model.generation_config.eos_token_id = kept
    lengths = (output.beam_indices >= 0).sum(dim=1).tolist()
    added = output.sequences[:, token_ids.shape[1] :].tolist()
    rows = zip(added, lengths, output.sequences_scores.tolist(), strict=True)
    return [ReferenceBeam(tuple(ids[:length]), score) for ids, length, score in rows]
