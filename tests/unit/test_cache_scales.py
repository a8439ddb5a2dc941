"""Scales that a checkpoint has for keys and values in fp8: the cache is that of a model whose numbers need none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from support.checkpoints import edit_weights, start
from support.models import write_model

PARAMS = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0, prompt_logprobs=0)
PROMPT = list(range(7, 90))
KEYS, VALUES = 512.0, 1024.0


def logprobs(folder: Path, kv_cache_dtype: str) -> list[float]:
    with LLM(str(folder), dtype="float32", kernels="torch", num_blocks=32, kv_cache_dtype=kv_cache_dtype) as llm:
        answer = llm.generate([PROMPT], PARAMS)[0]
    return [entry.logprob for entry in (*answer.prompt_logprobs, *answer.logprobs)]


def grow(tensors: dict[str, Tensor]) -> None:
    """The same model with larger keys and values, which other matrices make up for."""
    factors = {"q_proj": 1 / KEYS, "k_proj": KEYS, "v_proj": VALUES, "o_proj": 1 / VALUES}
    for name in tensors:
        for part, factor in factors.items():
            if f".{part}." in name:
                tensors[name] = tensors[name] * factor


def with_scales(key_name: str, value_name: str) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        for layer in range(2):
            prefix = f"model.layers.{layer}.self_attn."
            tensors[prefix + key_name] = torch.tensor([KEYS])
            tensors[prefix + value_name] = torch.tensor(VALUES)

    return edit


@pytest.mark.parametrize("names", [("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale")])
def test_a_scaled_cache_is_that_of_smaller_numbers(tmp_path: Path, names: tuple[str, str]) -> None:
    plain, grown = (write_model(tmp_path / name, "llama") for name in ("plain", "grown"))
    edit_weights(grown, grow)
    wanted = logprobs(plain, "fp8")
    # Without scales numbers are cut at the largest of the type.
    assert max(abs(a - b) for a, b in zip(logprobs(grown, "fp8"), wanted, strict=True)) > 0.1
    edit_weights(grown, with_scales(*names))
    torch.testing.assert_close(torch.tensor(logprobs(grown, "fp8")), torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    # A cache that is not narrow has the numbers as they are.
    torch.testing.assert_close(
        torch.tensor(logprobs(grown, "auto")), torch.tensor(logprobs(plain, "auto")), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        (torch.tensor(0.0), r"model.layers.0.self_attn.k_scale must be above 0, got 0.0"),
        (torch.tensor(float("nan")), "must be above 0, got nan"),
        (torch.ones(2), r"model.layers.0.self_attn.k_scale must be one number, got \(2,\)"),
    ],
)
def test_what_is_no_scale(tmp_path: Path, scale: Tensor, complaint: str) -> None:
    folder = write_model(tmp_path / "model", "llama")
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.k_scale": scale}))
    with pytest.raises(StartupError, match=complaint):
        start(folder)
