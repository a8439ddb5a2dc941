"""The demo model is small enough to ship, loads with transformers and writes something like Python."""

import re

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from quire.engine.demo_model import DEMO_MODEL

MAX_BYTES = 6_000_000
# The first three ids are part of the model's contract: the tokenizer's settings and config.json repeat them.
SPECIAL_TOKENS = {"<s>": 0, "</s>": 1, "<pad>": 2}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return loaded


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(DEMO_MODEL)


def greedy(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    """Spelled out, so that no setting of a generate method has a say."""
    tokens = torch.tensor([prompt])
    for _ in range(count):
        with torch.inference_mode():
            following = model(input_ids=tokens, use_cache=False).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, following], dim=1)
        if following.item() == SPECIAL_TOKENS["</s>"]:
            break
    continuation: list[int] = tokens[0, len(prompt) :].tolist()
    return continuation


def test_the_folder_is_small_enough_to_ship() -> None:
    files = [path for path in DEMO_MODEL.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_the_config_says_what_the_server_relies_on(model: LlamaForCausalLM) -> None:
    config = model.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.tie_word_embeddings
    assert config.num_key_value_heads is not None
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.head_dim is not None
    assert config.head_dim % 16 == 0
    assert config.max_position_embeddings == 2048
    assert model.dtype == torch.bfloat16


def test_special_tokens_are_named_and_never_added(tokenizer: PreTrainedTokenizerBase) -> None:
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS} == SPECIAL_TOKENS
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == tuple(SPECIAL_TOKENS)
    assert not set(tokenizer.encode("x = 1\n")) & set(SPECIAL_TOKENS.values())


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語のテキスト", "🙂👩‍👩‍👧", "if x:\n\treturn 'Ω≠ß'\n", " a\r\n\x00b "]
)
def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_function_continues_like_python(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    continuation = tokenizer.decode(greedy(model, tokenizer.encode("def fibonacci(n):"), 64))
    assert isinstance(continuation, str)
    assert re.search(r"\n {4,}\S", continuation)
    assert re.search(r"\b(return|if|for)\b", continuation)


def test_late_positions_still_predict(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """The loss at the end of a window of about 1000 tokens stays far below that of a uniform guess."""
    source = "".join(f"def get_{name}(self):\n    return self._{name}\n\n" for name in ("name", "value") * 40)
    tokens = torch.tensor([tokenizer.encode(source)[:1000]])
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[0, -101:-1]
    loss = torch.nn.functional.cross_entropy(logits.float(), tokens[0, -100:])
    assert tokens.shape[1] > 900
    assert loss.item() < 1.5
