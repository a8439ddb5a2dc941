"""The executor on a GPU with sequences that share a prefix: computed once for all, nearly the same tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from support.models import VOCAB_SIZE, write_wide_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_PROMPTS, MAX_TOKENS = 50, 24
PARAMS = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("model"), 1024)


def test_nearly_the_same_tokens(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = pytest.importorskip("quire.kernels.cuda.attention")
    counts: list[int] = []

    class Counting(attention.SharedDecode):  # type: ignore[misc, name-defined]
        def __init__(self, decode: Any, tasks: Any, *others: Any) -> None:
            counts.append(len(tasks.members))
            super().__init__(decode, tasks, *others)

    monkeypatch.setattr(attention, "SharedDecode", Counting)
    random = np.random.default_rng(0)
    prefix = random.integers(3, VOCAB_SIZE, 700).tolist()
    prompts = [[*prefix, *random.integers(3, VOCAB_SIZE, 20 + each).tolist()] for each in range(NUM_PROMPTS)]
    found = []
    for least in (1 << 40, 0):
        monkeypatch.setattr("quire.kernels.cuda.attention._LEAST_SPARED_BYTES", least)
        with LLM(str(model), device="cuda", kv_memory_mib=256, max_batch_size=64) as llm:
            llm.generate([prompts[0]], PARAMS)
            found.append(np.array([answer.token_ids for answer in llm.generate(prompts, PARAMS)]))
        if least:
            assert not counts
    assert counts.count(NUM_PROMPTS) >= MAX_TOKENS // 2
    # Once a token is another one, so are those behind it: the first ones count.
    assert (found[0][:, :4] == found[1][:, :4]).mean() > 0.9
