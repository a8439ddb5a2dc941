"""The executor on a GPU with keys and values in float8: twice the blocks, nearly the same tokens, with graphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.engine.request import SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

VOCAB, NUM_PROMPTS, MAX_TOKENS = 512, 60, 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=640, initializer_range=0.05, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    return folder


def test_twice_the_blocks_and_nearly_the_same_tokens(model: Path) -> None:
    random = np.random.default_rng(0)
    prompts = [random.integers(3, VOCAB, 20 + 5 * i).tolist() for i in range(NUM_PROMPTS)]
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    blocks, tokens = [], []
    for settings in ({}, {"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8", "cuda_graphs": False}):
        with LLM(str(model), device="cuda", kv_memory_mib=64, num_slots=64, **settings) as llm:
            blocks.append(llm.statistics().num_blocks)
            tokens.append(np.array([answer.token_ids for answer in llm.generate(prompts, params)]))
    assert blocks[1] == blocks[2]
    assert blocks[1] // 2 == blocks[0]
    assert tokens[1].shape == (NUM_PROMPTS, MAX_TOKENS)
    # Once a token is another one, so are those behind it: the first ones count.
    assert (tokens[0][:, 0] == tokens[1][:, 0]).mean() > 0.8
    assert (tokens[1][:, :4] == tokens[2][:, :4]).mean() > 0.9
