"""The executor on a GPU with sequences that share a prefix: computed once for all, nearly the same tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.engine.request import SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

VOCAB, NUM_PROMPTS, MAX_TOKENS = 512, 50, 24
PARAMS = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=1024, initializer_range=0.05, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO_MODEL / name).read_bytes())
    return folder


def test_nearly_the_same_tokens(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flashinfer = pytest.importorskip("quire.kernels.attention.flashinfer")
    counts: list[int] = []

    class Counting(flashinfer.SharedDecode):  # type: ignore[misc, name-defined]
        def __init__(self, decode: Any, tasks: Any, *others: Any) -> None:
            counts.append(len(tasks.members))
            super().__init__(decode, tasks, *others)

    monkeypatch.setattr(flashinfer, "SharedDecode", Counting)
    random = np.random.default_rng(0)
    prefix = random.integers(3, VOCAB, 700).tolist()
    prompts = [[*prefix, *random.integers(3, VOCAB, 20 + each).tolist()] for each in range(NUM_PROMPTS)]
    found = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(flashinfer, "_LEAST_SPARED_BYTES", least)
        with LLM(str(model), device="cuda", kv_memory_mib=256, num_slots=64) as llm:
            llm.generate([prompts[0]], PARAMS)
            found.append(np.array([answer.token_ids for answer in llm.generate(prompts, PARAMS)]))
        if least:
            assert not counts
    assert counts.count(NUM_PROMPTS) >= MAX_TOKENS // 2
    # Once a token is another one, so are those behind it: the first ones count.
    assert (found[0][:, :4] == found[1][:, :4]).mean() > 0.9
