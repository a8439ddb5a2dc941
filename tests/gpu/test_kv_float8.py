"""The executor on a GPU with keys and values in float8: twice the blocks, nearly the same tokens, with graphs."""

from pathlib import Path

import numpy as np
import pytest

from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from support.models import VOCAB_SIZE, write_wide_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_PROMPTS, MAX_TOKENS = 60, 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("model"), 640)


def test_twice_the_blocks_and_nearly_the_same_tokens(model: Path) -> None:
    random = np.random.default_rng(0)
    prompts = [random.integers(3, VOCAB_SIZE, 20 + 5 * i).tolist() for i in range(NUM_PROMPTS)]
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    blocks, tokens = [], []
    for settings in ({}, {"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8", "cuda_graphs": False}):
        with LLM(str(model), device="cuda", kv_memory_mib=64, max_batch_size=64, **settings) as llm:
            blocks.append(llm.statistics().num_blocks)
            tokens.append(np.array([answer.token_ids for answer in llm.generate(prompts, params)]))
    assert blocks[1] == blocks[2]
    assert blocks[1] // 2 == blocks[0]
    assert tokens[1].shape == (NUM_PROMPTS, MAX_TOKENS)
    # Once a token is another one, so are those behind it: the first ones count.
    assert (tokens[0][:, 0] == tokens[1][:, 0]).mean() > 0.8
    assert (tokens[1][:, :4] == tokens[2][:, :4]).mean() > 0.9
