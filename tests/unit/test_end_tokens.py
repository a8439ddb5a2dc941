"""End tokens: which of a model folder's are taken, and what is said of the others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from quire.engine.weights.checkpoint import read_checkpoint
from support.checkpoints import edit_config, write_llama
from support.models import write_model

FILES = ("config.json", "generation_config.json")
VOCAB_SIZE = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_llama(tmp_path, vocab_size=VOCAB_SIZE)
    return tmp_path


def name_end_tokens(folder: Path, file: str, value: Any) -> None:
    """In this file alone."""
    edit_config(folder, eos_token_id=value if file == "config.json" else None)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value} if file != "config.json" else {}))


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [(3, None, (3,)), (3, [9, 4], (4, 9)), (3, 5, (5,)), ([8, 2], None, (2, 8)), (None, None, ()), (3, [], ())],
)
def test_the_generation_settings_go_first(folder: Path, config: Any, generation: Any, ids: tuple[int, ...]) -> None:
    edit_config(folder, eos_token_id=config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert read_checkpoint(folder).eos_token_ids == ids
    (folder / "generation_config.json").unlink()
    alone = config if isinstance(config, list) else [config]
    assert read_checkpoint(folder).eos_token_ids == tuple(sorted(each for each in alone if each is not None))


def test_a_family_has_a_default(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).eos_token_ids == (2,)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("value", "ids", "ignored"),
    [
        ([-1, 2], (2,), None),
        (-1, (), None),
        ([None, 2, 2], (2,), None),
        ([2, VOCAB_SIZE - 1, VOCAB_SIZE], (2, VOCAB_SIZE - 1), "60 can"),
        (2**40, (), "1099511627776 can"),
        ([2, -7, 2**40, 10**400], (2,), "-7, 1099511627776, 1000000"),
    ],
)
def test_ids_that_cannot_be_sampled_are_ignored_by_name(
    folder: Path, file: str, value: Any, ids: tuple[int, ...], ignored: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    name_end_tokens(folder, file, value)
    assert read_checkpoint(folder).eos_token_ids == ids
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    if ignored is None:
        assert messages == []
    else:
        (message,) = messages
        assert message.startswith(f"{file}: eos_token_id: {ignored}")
        assert message.endswith("can never be sampled, ignored; token ids are 0 to 59")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("value", ["2", ["2"], True, [2, False], 2.0, [[2]], {"id": 2}, float("nan")])
def test_what_is_no_token_id_is_refused(folder: Path, file: str, value: Any) -> None:
    name_end_tokens(folder, file, value)
    with pytest.raises(StartupError) as error:
        read_checkpoint(folder)
    complaint = f"{file}: eos_token_id must be a token id, a list of token ids or null, got {value!r}"
    assert str(error.value) == f"model {folder}: {complaint}"


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("incomplete")


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: path.write_text("[]"), r"must hold a JSON object, got \[\]"),
        (lambda path: path.write_text("null"), "must hold a JSON object, got None"),
        (lambda path: path.write_text('"' + "x" * 10_000 + '"'), r"must hold a JSON object, got 'x{76}\.\.\.$"),
        (lambda path: path.write_text("{"), "is not valid JSON in UTF-8: Expecting property name"),
        (lambda path: path.write_text(""), "is not valid JSON in UTF-8: Expecting value"),
        (lambda path: path.write_text("[" * 100_000), "is not valid JSON in UTF-8: maximum recursion"),
        (lambda path: path.write_bytes(b'{"a": "\xff"}'), "is not valid JSON in UTF-8: 'utf-8' codec"),
        (_directory, "cannot be read: Is a directory"),
        (_dangling, "is not there"),
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_files_that_cannot_be_read_are_named(
    folder: Path, file: str, write: Callable[[Path], object], complaint: str
) -> None:
    write(folder / file)
    with pytest.raises(StartupError, match=rf"model {folder}: {file} {complaint}"):
        read_checkpoint(folder)


def test_a_sequence_ends_at_the_usable_one(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")

    def generated(end_tokens: Any) -> Completion:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end_tokens}))
        with LLM(str(tmp_path), device="cpu", num_threads=1, num_blocks=8, max_batch_size=1) as llm:
            return llm.generate(["abc"], SamplingParams(temperature=0, max_tokens=3))[0]

    whole = generated(-1)
    assert (len(whole.token_ids), whole.finish_reason) == (3, FinishReason.LENGTH)
    ended = generated([-1, 2**40, whole.token_ids[0]])
    assert (len(ended.token_ids), ended.finish_reason) == (1, FinishReason.STOP)
