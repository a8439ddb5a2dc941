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
    CohereConfig,
    CohereForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
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

_SMALL = _SIZES | {"pad_token_id": None}
_MORE: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SMALL, head_dim=32, sliding_window=SLIDING_WINDOW)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**_SMALL, head_dim=32, sliding_window=SLIDING_WINDOW, sliding_window_pattern=2)
    ),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**_SMALL)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**_SMALL)),
    "glm": lambda: GlmForCausalLM(GlmConfig(**_SMALL, head_dim=32)),
    "glm4": lambda: Glm4ForCausalLM(Glm4Config(**_SMALL, head_dim=32)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_SMALL, residual_multiplier=0.7, attention_multiplier=0.2)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**_SMALL, num_local_experts=4)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**_SMALL, head_dim=32, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=48)
    ),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**_SMALL, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=SLIDING_WINDOW)
    ),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**_SMALL | {"num_key_value_heads": 4}, q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=16,
                         qk_nope_head_dim=16, v_head_dim=16, moe_intermediate_size=48, n_routed_experts=8,
                         num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1)
    ),
    "gpt2, by transformers": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=MAX_MODEL_LEN, **{
            name: _SIZES[name] for name in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")
        })
    ),
    "gpt_neox, by transformers": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SMALL)),
    "starcoder2, by transformers": lambda: Starcoder2ForCausalLM(Starcoder2Config(**_SMALL)),
    "stablelm, by transformers": lambda: StableLmForCausalLM(StableLmConfig(**_SMALL)),
    "cohere, by transformers": lambda: CohereForCausalLM(CohereConfig(**_SMALL)),
}  # fmt: skip
MORE_FAMILIES: Final = tuple(_MORE)
"""Further ones, which take minutes all together."""


def write_model(folder: Path, family: str, seed: int = 0) -> Path:
    """Writes a random float32 model with a byte-level tokenizer; returns the folder."""
    torch.manual_seed(seed)
    {**_FAMILIES, **_MORE}[family]().save_pretrained(folder)
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
