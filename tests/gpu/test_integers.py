"""Weights brought into 8- and 4-bit integers on a GPU: tokens of the same numbers are the likeliest, in graphs and
without."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from quire.kernels.coded_weight import CODINGS, int8
from support.likelihood import difference
from support.models import load_reference, write_wide_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=0)
# One row in a step alone is another kernel, and prompts of more than 64 tokens are multiplied by wide numbers.
PROMPTS = [list(range(5, 5 + length)) for length in (3, 70, 300)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_model(tmp_path_factory.mktemp("model"), 640)


def coded(model: Path, name: str) -> PreTrainedModel:
    """In float32, of the numbers that the codes stand for."""
    reference = load_reference(model)
    for at, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            coding = int8 if at == "lm_head" else CODINGS[name]
            module.weight = torch.nn.Parameter(coding(module.weight.data.bfloat16()).widened(torch.float32))
    return reference


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_log_probabilities_are_those_of_the_coded_numbers(model: Path, name: str, cuda_graphs: bool) -> None:
    reference = coded(model, name)
    with LLM(
        str(model), dtype="bfloat16", device="cuda", quantization=name, num_blocks=1024, max_batch_size=16,
        cuda_graphs=cuda_graphs,
    ) as llm:  # fmt: skip
        alone = llm.generate([PROMPTS[0]], GREEDY)
        together = llm.generate(PROMPTS, GREEDY)
    for prompt, answer in zip([PROMPTS[0], *PROMPTS], [*alone, *together], strict=True):
        assert difference(reference, prompt, answer) < 0.1
