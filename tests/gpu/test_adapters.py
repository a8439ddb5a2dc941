"""Low-rank adapters on a GPU: tokens of PEFT's merged model are the likeliest, in graphs and without."""

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from support.adapters import merged, write_adapter
from support.likelihood import difference
from support.models import write_wide_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_ADAPTERS = 3
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=0)
PROMPTS = [list(range(5, 5 + length)) for length in (3, 70, 300)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("model"), 640)


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
async def test_log_probabilities_are_those_of_the_merged_model(model: Path, tmp_path: Path, cuda_graphs: bool) -> None:
    paths = [
        write_adapter(tmp_path / str(seed), model, seed=seed, r=8 << seed, spread=0.05) for seed in range(NUM_ADAPTERS)
    ]
    references = {path.name: merged(model, path) for path in paths}
    references[""] = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    with LLM(
        str(model), dtype="bfloat16", device="cuda", num_blocks=1024, max_batch_size=16, max_adapters=NUM_ADAPTERS,
        cuda_graphs=cuda_graphs,
    ) as llm:  # fmt: skip
        for path in paths:
            llm.load_adapter(path)
        asked = [(name, prompt) for name in references for prompt in PROMPTS]
        answers = await asyncio.gather(
            *(llm.generate_async(prompt, GREEDY, RequestOptions(adapter=name)) for name, prompt in asked)
        )
        again = llm.generate([PROMPTS[1]], GREEDY)[0]
    for (name, prompt), answer in zip(asked, answers, strict=True):
        assert difference(references[name], prompt, answer) < 0.1, name
    others = difference(references[""], PROMPTS[1], answers[1])
    assert others > 0.1, "an adapter that changes nothing shows nothing"
    assert difference(references[""], PROMPTS[1], again) < 0.1
