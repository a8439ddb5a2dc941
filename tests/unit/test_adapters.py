"""Low-rank adapters through the in-process API, against PEFT's merged models in float32."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.llm import LLM
from quire.engine.preparation import AdapterPreparation
from quire.kernels.adapters import NO_PLACE
from support.adapters import ALL_LINEAR, merged, write_adapter
from support.models import load_reference, reference_greedy, write_model

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
PROMPTS = [list(range(5 + i, 60 + 3 * i)) for i in range(3)]
CONFIGS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "queries and values": {"target_modules": ["q_proj", "v_proj"], "r": 4},
    "rslora": {"use_rslora": True, "r": 16},
    "ranks": {"rank_pattern": {"down_proj": 3, "layers.1.self_attn.q_proj": 20}, "alpha_pattern": {"up_proj": 7}},
    "one layer": {"target_modules": ["gate_proj"], "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEFT folders by name."""
    home = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(home / str(seed), folder, seed=seed, **config)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }


@pytest.fixture(scope="module", params=["native", "torch"])
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with LLM(
        str(folder), kernels=request.param, dtype="float32", num_blocks=512, max_adapters=3, max_adapter_rank=32
    ) as made:
        yield made


def tokens(answers: list[Completion]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answers]


@cache
def wanted(folder: Path, adapter: Path | None = None) -> list[list[int]]:
    model = load_reference(folder) if adapter is None else merged(folder, adapter)
    return [reference_greedy(model, prompt, 24, ignore_eos=True) for prompt in PROMPTS]


def test_tokens_are_those_of_the_merged_model(llm: LLM, folder: Path, adapters: dict[str, Path]) -> None:
    plain = tokens(llm.generate(PROMPTS, GREEDY))
    assert plain == wanted(folder)
    for name, path in adapters.items():
        assert llm.load_adapter(path, name).name == name
        found = tokens(llm.generate(PROMPTS, GREEDY, RequestOptions(adapter=name)))
        assert found == wanted(folder, path)
        assert found != plain
    assert {adapter.name for adapter in llm.adapters()} == set(CONFIGS)


async def test_sixteen_adapters_in_one_batch(llm: LLM, folder: Path, tmp_path: Path) -> None:
    paths = [write_adapter(tmp_path / str(seed), folder, seed=seed, r=1 + seed) for seed in range(16)]
    with LLM(str(folder), dtype="float32", num_blocks=2048, max_adapters=16) as wide:
        for path in paths:
            wide.load_adapter(path)
        options = [RequestOptions(), *(RequestOptions(adapter=path.name) for path in paths)]
        asked = [wide.generate_async(prompt, GREEDY, each) for each in options for prompt in PROMPTS]
        found = tokens(await asyncio.gather(*asked))
    each = [found[i : i + len(PROMPTS)] for i in range(0, len(found), len(PROMPTS))]
    assert each == [wanted(folder), *(wanted(folder, path) for path in paths)]


async def test_more_adapters_than_places_take_turns(llm: LLM, folder: Path, adapters: dict[str, Path]) -> None:
    for name, path in adapters.items():
        llm.load_adapter(path, name)
    names = [*adapters] * 3
    asked = [llm.generate_async(PROMPTS[0], GREEDY, RequestOptions(adapter=name)) for name in names]
    found = dict(zip(names, tokens(await asyncio.gather(*asked)), strict=True))
    assert found == {name: wanted(folder, path)[0] for name, path in adapters.items()}


def test_blocks_of_one_adapter_are_not_found_with_another(llm: LLM, adapters: dict[str, Path]) -> None:
    first, second = list(adapters)[:2]
    for name in (first, second):
        llm.load_adapter(adapters[name], name)
    prompt = list(range(200, 280))
    cached = [
        llm.generate([prompt], GREEDY, RequestOptions(adapter=name))[0].usage.cached_tokens
        for name in ("", first, second, "", first, second)
    ]
    assert cached == [0, 0, 0, 79, 79, 79]


def test_a_new_adapter_under_an_old_name(llm: LLM, folder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    llm.load_adapter(adapters["rslora"], "tuned")
    before = tokens(llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="tuned")))
    llm.load_adapter(adapters["ranks"], "tuned")
    assert tokens(llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="tuned"))) == wanted(folder, adapters["ranks"])
    assert before == wanted(folder, adapters["rslora"])


def test_a_name_that_is_gone(llm: LLM, adapters: dict[str, Path]) -> None:
    llm.load_adapter(adapters["all linear"])
    name = adapters["all linear"].name
    stream = llm.generate_stream(PROMPTS[0], replace(GREEDY, max_tokens=200), RequestOptions(adapter=name))
    next(stream)
    llm.unload_adapter(name)
    assert list(stream)[-1].finish_reason is FinishReason.LENGTH  # who was accepted goes on
    with pytest.raises(InvalidRequest, match=f"adapter: must be .*, got '{name}'"):
        llm.generate(PROMPTS, GREEDY, RequestOptions(adapter=name))
    with pytest.raises(InvalidRequest, match=f"name: must be .*, got '{name}'"):
        llm.unload_adapter(name)


def test_files_that_change_or_go_while_requests_name_them(
    folder: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Where one of two adapters must give its place away, it is read again when it is needed again."""
    path = shutil.copytree(adapters["all linear"], tmp_path / "moving")
    with LLM(str(folder), dtype="float32", num_blocks=256, max_adapters=1) as narrow:
        for each in (path, adapters["rslora"]):
            narrow.load_adapter(each, each.name)
            narrow.generate(PROMPTS, GREEDY, RequestOptions(adapter=each.name))
        weights = load_file(path / "adapter_model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, path / "adapter_model.safetensors")
        with pytest.raises(InvalidRequest, match="adapter: must be as it was when it was loaded"):
            narrow.generate(PROMPTS, GREEDY, RequestOptions(adapter="moving"))
        shutil.rmtree(path)
        with pytest.raises(InvalidRequest, match=r"adapter: must be a PEFT folder for this model: .* is not there"):
            narrow.generate(PROMPTS, GREEDY, RequestOptions(adapter="moving"))
        other = adapters["rslora"]
        assert tokens(narrow.generate(PROMPTS, GREEDY, RequestOptions(adapter=other.name))) == wanted(folder, other)


def test_a_model_without_adapters(folder: Path, adapters: dict[str, Path]) -> None:
    with LLM(str(folder), dtype="float32", num_blocks=64, max_adapters=0) as llm:
        with pytest.raises(InvalidRequest, match=r"adapter: must be left out: .*max_adapters is 0"):
            llm.load_adapter(adapters["rslora"], "a")
        with pytest.raises(InvalidRequest, match="adapter: must be left out: none is loaded, got 'a'"):
            llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="a"))


def edit(path: Path, **values: Any) -> None:
    content = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(content | values))


def rename(path: Path, old: str, new: str) -> None:
    weights = load_file(path / "adapter_model.safetensors")
    save_file({name.replace(old, new): tensor for name, tensor in weights.items()}, path / "adapter_model.safetensors")


def shorten(path: Path) -> None:
    weights = load_file(path / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :-1].contiguous() for name, tensor in weights.items()}, path / "adapter_model.safetensors"
    )


def drop(path: Path, end: str) -> None:
    weights = load_file(path / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(end)}
    save_file(kept, path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "adapter_config.json is not there"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is not there"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b"x"), "not a safetensors file"),
        (lambda path: (path / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda path: edit(path, peft_type="IA3"), "peft_type must be 'LORA', got 'IA3'"),
        (lambda path: edit(path, bias="all"), "bias must be 'none', got 'all'"),
        (lambda path: edit(path, use_dora=True), "use_dora must be False, got True"),
        (lambda path: edit(path, modules_to_save=["lm_head"]), "modules_to_save must be None"),
        (lambda path: edit(path, r="8"), "r input should be a valid integer"),
        (lambda path: edit(path, r=9), "has rank 8, but adapter_config.json says 9"),
        (lambda path: edit(path, rank_pattern={"(": 8}), "is no regular expression"),
        (lambda path: edit(path, r=0), "ranks must be at least 1, got 0"),
        (lambda path: rename(path, "q_proj", "x_proj"), "matrices for model.layers.0.self_attn.x_proj, .* no linear"),
        (lambda path: rename(path, "layers.1", "layers.2"), "matrices for model.layers.2"),
        (lambda path: rename(path, "lora_A", "lora_embedding_A"), "no low-rank matrices of linear layers"),
        (lambda path: drop(path, "q_proj.lora_B.weight"), "only one of the two matrices of model.layers.0"),
        (lambda path: drop(path, ".weight"), "has no matrices"),
        (shorten, "have shapes|has matrices of"),
    ],
)
def test_what_is_no_adapter_of_the_model(
    llm: LLM, adapters: dict[str, Path], tmp_path: Path, spoil: Any, message: str
) -> None:
    path = shutil.copytree(adapters["all linear"], tmp_path / "spoilt")
    spoil(path)
    with pytest.raises(InvalidRequest, match=f"adapter: must be a PEFT folder for this model: .*({message})"):
        llm.load_adapter(path, "spoilt")


def test_a_rank_above_the_limit(llm: LLM, folder: Path, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "high", folder, r=33)
    with pytest.raises(InvalidRequest, match=r"has rank 33, must be at most 32 \(max_adapter_rank\)"):
        llm.load_adapter(path)


@pytest.mark.parametrize("name", ["", "a" * 257, "a\n"])
def test_what_no_adapter_is_called(llm: LLM, adapters: dict[str, Path], name: str) -> None:
    with pytest.raises(InvalidRequest, match="name: must be 1 to 256 printable characters"):
        llm.load_adapter(adapters["rslora"], name)


def test_an_adapter_for_another_model(llm: LLM, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", "qwen3_moe")
    path = write_adapter(tmp_path / "adapter", other, target_modules=["q_proj", "o_proj"])
    with pytest.raises(InvalidRequest, match="must be of"):
        llm.load_adapter(path)


LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"]


@pytest.mark.parametrize(
    ("family", "modules"),
    [
        *((name, ALL_LINEAR) for name in ("qwen3", "phi3", "gemma3", "glm4", "granite", "olmo2")),
        ("deepseek_v3", LATENT),
        *((f"{name}, by transformers", ALL_LINEAR) for name in ("stablelm", "gpt_neox", "cohere")),
    ],
)
def test_families(family: str, modules: str | list[str], tmp_path: Path) -> None:
    """Projections that are merged in the checkpoint, rows in another order, other activations."""
    folder = write_model(tmp_path / "model", family)
    path = write_adapter(tmp_path / "adapter", folder, spread=0.1, target_modules=modules)
    with LLM(str(folder), dtype="float32", num_blocks=256) as llm:
        llm.load_adapter(path)
        found = tokens(llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="adapter")))
        assert found == wanted(folder, path)
        assert tokens(llm.generate(PROMPTS, GREEDY)) == wanted(folder)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_bfloat16_and_int8(folder: Path, adapters: dict[str, Path], quantization: str) -> None:
    """Narrow types, too: a token alone and in a batch of others is the same."""
    with LLM(str(folder), dtype="bfloat16", num_blocks=512, quantization=quantization) as llm:
        llm.load_adapter(adapters["all linear"], "a")
        llm.load_adapter(adapters["rslora"], "b")
        alone = [llm.generate([prompt], GREEDY, RequestOptions(adapter="a"))[0].token_ids for prompt in PROMPTS]
        assert [answer.token_ids for answer in llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="a"))] == alone
        assert [answer.token_ids for answer in llm.generate(PROMPTS, GREEDY, RequestOptions(adapter="b"))] != alone


def test_an_adapter_has_one_place(folder: Path, adapters: dict[str, Path]) -> None:
    """Whoever asks for it in another one may give the first to others."""
    config = ExecutorConfig(model=str(folder), dtype="float32", num_blocks=8, max_batch_size=1, max_adapters=2)
    executor = Executor(config)
    first, second = (executor.examine(name, str(adapters[name])) for name in ("rslora", "ranks"))
    places = executor._engine.adapters
    for place in (0, 1):
        executor.prepare(AdapterPreparation(first, place))
        assert places.place(first.digest) == place
    executor.prepare(AdapterPreparation(second, 0))
    assert (places.place(first.digest), places.place(second.digest), places.place("")) == (1, 0, NO_PLACE)
    with pytest.raises(InvalidRequest, match="place: must be 0 to 1, got 2"):
        executor.prepare(AdapterPreparation(first, 2))
    with pytest.raises(InvalidRequest, match=r"starts.adapter: must be the digest of an adapter that was loaded"):
        places.place("f" * 64)
