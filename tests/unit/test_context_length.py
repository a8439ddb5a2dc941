"""`max_model_len`: what a model reaches, with and without a scaling of its rotary positions."""

from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.errors import StartupError
from quire.engine.weights.checkpoint import read_checkpoint
from support.checkpoints import edit_config, start, write_llama

OWN = 64
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_llama(tmp_path, max_position_embeddings=OWN)
    return tmp_path


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **parameters}}


@pytest.mark.parametrize(
    ("changes", "limit", "reason"),
    [
        ({}, 64, "64, the model's max_position_embeddings; its default rotary positions reach no further"),
        (rope("linear", factor=4.0), 256, "256, which is 4.0 times the model's max_position_embeddings of 64 (linear"),
        (rope("linear", factor=1.0), 64, "64, the model's max_position_embeddings; its linear"),
        (rope("linear", factor=1.52), 97, "97, which is 1.52 times"),
        (rope("dynamic", factor=2), 128, "128, which is 2 times the model's max_position_embeddings of 64 (dynamic"),
        (rope("yarn", factor=4.0), 256, "256, which is 4.0 times the model's original_max_position_embeddings of 64"),
        (rope("yarn", factor=4.0, original_max_position_embeddings=32), 128,
         "128, which is 4.0 times the model's original_max_position_embeddings of 32 (yarn"),
        # Already stretched by whoever wrote it.
        (rope("yarn", factor=4.0, original_max_position_embeddings=16), 64, "64, the model's max_position_embeddings"),
        (rope("llama3", factor=8.0, **LLAMA3), 64, "64, the model's max_position_embeddings; its llama3"),
    ],
)  # fmt: skip
def test_a_length_beyond_the_models_is_refused_with_the_numbers(
    folder: Path, changes: dict[str, Any], limit: int, reason: str
) -> None:
    edit_config(folder, **changes)
    assert read_checkpoint(folder).max_model_len == OWN
    for length in (2, OWN, limit):
        assert start(folder, num_blocks=1, max_model_len=length).info.max_model_len == length
    for length in (limit + 1, 10**9):
        with pytest.raises(StartupError) as error:
            start(folder, num_blocks=1, max_model_len=length)
        message = str(error.value)
        assert message.startswith(f"model {folder}: max_model_len: must be at most {reason}")
        assert message.endswith(f", got {length}")


def test_blocks_of_other_lengths_are_not_shared_beyond_the_models_own(folder: Path) -> None:
    edit_config(folder, **rope("dynamic", factor=4.0))
    fingerprints = [read_checkpoint(folder, length).fingerprint for length in (None, 32, OWN, OWN + 1, 256)]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]
    assert len(set(fingerprints)) == 3


def test_a_window_that_holds_everything_is_none(folder: Path) -> None:
    edit_config(folder, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=40)
    assert [shape.window for shape in read_checkpoint(folder).outline.attention] == [40, 40]
    assert [shape.window for shape in read_checkpoint(folder, 40).outline.attention] == [None, None]
