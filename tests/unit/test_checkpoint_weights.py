"""Weight files against their index, the configuration, and what transformers makes of tied matrices."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from quire.engine.api.errors import StartupError
from quire.engine.weights.checkpoint import read_checkpoint
from support.checkpoints import edit_weights, start, write_llama
from support.composed import Composed, compose, weight

INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def write_shards(folder: Path) -> None:
    """Two shards and their index: the norm and the head in "b.safetensors", all others in "a.safetensors"."""
    write_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: "b.safetensors" if name in (NORM, HEAD) else "a.safetensors" for name in tensors}
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({name: tensors[name] for name in tensors if places[name] == shard}, folder / shard)
    write_index(folder, places)


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def weight_map(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return found


def add(path: Path, **tensors: Tensor) -> None:
    save_file(load_file(path) | tensors, path)


def load(folder: Path) -> Composed:
    return compose(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path)
    return tmp_path


@pytest.mark.parametrize("other", [torch.full((32,), 9.0), torch.ones(7), torch.ones(32, dtype=torch.int8)])
@pytest.mark.parametrize(("tensor", "shard"), [(NORM, "a.safetensors"), (DOWN, "b.safetensors")])
def test_the_index_decides_which_tensor_counts(
    folder: Path, tensor: str, shard: str, other: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, fingerprint = load(folder), read_checkpoint(folder).fingerprint
    assert caplog.messages == []
    add(folder / shard, **{tensor: other})
    found = load(folder)
    assert torch.equal(found.norm, wanted.norm)
    assert torch.equal(*(weight(each.block(1).feed_forward.down) for each in (found, wanted)))
    warnings = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert warnings == {f"{folder}: 1 tensors lie where {INDEX} does not name them, ignored: {tensor} in {shard}"}
    assert read_checkpoint(folder).fingerprint != fingerprint


def test_the_fingerprint_tells_which_of_two_counts(folder: Path) -> None:
    add(folder / "a.safetensors", **{NORM: torch.zeros(32)})
    fingerprints = {read_checkpoint(folder).fingerprint}
    write_index(folder, weight_map(folder) | {NORM: "a.safetensors"})
    assert torch.equal(load(folder).norm, torch.zeros(32))
    fingerprints.add(read_checkpoint(folder).fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda places: places | {NORM: "a.safetensors"}, rf"{INDEX} names 1 tensors that their files lack: {NORM} in"),
        (lambda places: {name: places[name] for name in places if name != NORM}, f"1 tensors are missing: {NORM}$"),
        (lambda places: places | {"x": "c.safetensors", "y": "d.safetensors"},
         r"names 2 files that are not there: c\.safetensors, d\.safetensors"),
        (lambda places: {}, f"21 tensors are missing: {HEAD}, "),
        (lambda places: None, f"{INDEX}: weight_map must be an object of file names by tensor, got None"),
        (lambda places: list(places), rf"{INDEX}: weight_map must be an object of file names by tensor, got \['"),
        (lambda places: places | {NORM: 3}, f"'{NORM}' must be in a .safetensors file of this folder, .*, got 3"),
    ],
)  # fmt: skip
def test_an_index_that_contradicts_its_files(folder: Path, edit: Callable[[Any], Any], complaint: str) -> None:
    write_index(folder, edit(weight_map(folder)))
    with pytest.raises(StartupError, match=complaint):
        load(folder)


@pytest.mark.parametrize(
    "way", ["../b.safetensors", "{folder}/b.safetensors", "sub/b.safetensors", "..", ".", "", "b.bin", "b\0"]
)
def test_no_index_leads_out_of_its_folder(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    write_shards(folder)
    for place in (tmp_path, folder / "sub"):
        place.mkdir(exist_ok=True)
        (place / "b.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    write_index(folder, weight_map(folder) | {NORM: way.format(folder=folder)})
    with pytest.raises(
        StartupError, match=rf"{INDEX}: weight_map: '{NORM}' must be in a .safetensors file of this folder"
    ):
        load(folder)


def test_an_index_that_is_no_object(folder: Path) -> None:
    (folder / INDEX).write_text("[]")
    with pytest.raises(StartupError, match=rf"{INDEX} must hold a JSON object, got \[\]"):
        load(folder)


def test_a_shard_cut_off_is_named(folder: Path) -> None:
    path = folder / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StartupError, match=r"b\.safetensors: not a safetensors file, or cut off"):
        read_checkpoint(folder)


def test_one_message_has_all_that_is_wrong(tmp_path: Path) -> None:
    write_llama(tmp_path)
    edit_weights(tmp_path, lambda tensors: [tensors.pop(name) for name in (NORM, EMBEDDING)])
    edit_weights(
        tmp_path, lambda tensors: tensors.update({DOWN: torch.zeros(5), HEAD: torch.ones(60, 32).to(torch.int8)})
    )
    with pytest.raises(StartupError) as error:
        start(tmp_path)
    assert str(error.value) == (
        f"model {tmp_path}: 2 tensors are missing: {EMBEDDING}, {NORM}; "
        f"{DOWN} has shape (5,), but config.json says (32, 48); {HEAD} has type I8, must be one of F64, F32, F16, BF16"
    )


def test_what_is_wrong_in_every_layer_is_counted(tmp_path: Path) -> None:
    write_llama(tmp_path, num_hidden_layers=6)
    edit_weights(
        tmp_path, lambda tensors: tensors.update({name: tensors[name].to(torch.float8_e4m3fn) for name in tensors})
    )
    with pytest.raises(StartupError, match=r"lm_head\.weight has type F8_E4M3, must be .*, and 54 more$"):
        start(tmp_path)


def test_a_configuration_far_larger_than_its_weights_allocates_nothing(tmp_path: Path) -> None:
    write_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1 << 24, "hidden_size": 1 << 20}))
    with pytest.raises(StartupError, match=rf"{EMBEDDING} has shape \(60, 32\), but .* \(16777216, 1048576\)"):
        start(tmp_path)


def test_tensors_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_llama(tmp_path)
    bias = "model.layers.0.self_attn.q_proj.bias"
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(tmp_path, lambda tensors: tensors.update({bias: torch.ones(32), frequencies: torch.ones(4)}))
    load(tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"1 tensors of {tmp_path} are not used: {bias}"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kept", [(EMBEDDING, HEAD), (EMBEDDING,), (HEAD,)])
@pytest.mark.parametrize("differ", [True, False])
def test_matrices_are_tied_as_transformers_ties_them(
    tmp_path: Path, tied: bool, kept: tuple[str, ...], differ: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write_llama(tmp_path, tie_word_embeddings=tied)
    embedding, head = torch.randn(60, 32), torch.randn(60, 32)
    both = {EMBEDDING: embedding, HEAD: head if differ else embedding.clone()}

    def replace(tensors: dict[str, Tensor]) -> None:
        for name in both:
            tensors.pop(name, None)
        tensors.update({name: both[name] for name in kept})

    edit_weights(tmp_path, replace)
    if not tied and len(kept) == 1:
        # transformers makes random numbers of it.
        with pytest.raises(StartupError, match="1 tensors are missing"):
            load(tmp_path)
        return
    found, wanted = load(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(found.embedding, wanted.get_input_embeddings().weight)
    assert torch.equal(found.head, wanted.get_output_embeddings().weight)
    is_shared = found.head is found.embedding
    assert is_shared == (wanted.get_output_embeddings().weight is wanted.get_input_embeddings().weight)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("quire")]
    complaint = f"tie_word_embeddings is true, but {HEAD} and {EMBEDDING} differ"
    assert [each.startswith(complaint) for each in warnings if "loaded" not in each] == [True] * (
        tied and differ and len(kept) == 2
    )


def test_matrices_that_are_equal_once_converted_are_tied(tmp_path: Path) -> None:
    write_llama(tmp_path, tie_word_embeddings=True)
    rounded = torch.randn(60, 32).bfloat16()
    edit_weights(tmp_path, lambda tensors: tensors.update({EMBEDDING: rounded, HEAD: rounded.float()}))
    found = compose(tmp_path, torch.bfloat16)
    assert found.head is found.embedding
