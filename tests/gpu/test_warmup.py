"""What only some requests ask for is there when the executor has started: kernels, and memory for counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from support.models import write_wide_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_SLOTS = 64
# Of no other test: what these have compiled does not serve here.
VOCAB_SIZE, BLOCK_SIZE = 40_001, 64
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
DRAWN = replace(GREEDY, temperature=0.8)
WISHES = (
    GREEDY,
    DRAWN,
    replace(DRAWN, top_k=5, top_p=0.9, min_p=0.1),
    replace(GREEDY, logprobs=0),
    replace(DRAWN, repetition_penalty=1.2, logprobs=20),
)


def test_no_request_waits_for_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    compiled: list[str] = []
    allocated: list[int] = []

    def hook(**what: Any) -> None:
        compiled.append(what["fn"].name)

    model = write_wide_model(tmp_path, 1024, VOCAB_SIZE)
    monkeypatch.setattr("quire.kernels.cuda.attention._LEAST_SPARED_BYTES", 0)
    with LLM(str(model), device="cuda", kv_memory_mib=256, max_batch_size=NUM_SLOTS, block_size=BLOCK_SIZE) as llm:
        monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", hook)
        for params in WISHES:
            # Each slot has one of them.
            llm.generate([[5 + each, 6, 7] for each in range(NUM_SLOTS)], params)
            allocated.append(torch.cuda.memory_allocated())
        for count in (3, 16, 21):
            llm.generate([[7] * 300 + [5 + each] for each in range(count)], GREEDY)
    assert compiled == []
    # With the first ones the executor's thread has made its workspace for products.
    assert max(allocated) - allocated[0] < NUM_SLOTS * VOCAB_SIZE * 4 / 2, "half of the counts"
