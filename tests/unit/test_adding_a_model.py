"""The page that adds a model is followed to the letter, and the model computes as transformers computes it."""

import re
from pathlib import Path
from types import MappingProxyType, ModuleType

import pytest
import transformers
from unit import test_executor_generation

from quire.engine.models import families
from quire.engine.models.family import Family

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_model.md"


def test_the_page_adds_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, entry = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = ModuleType("smollm3")
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    (family,) = (each for each in vars(module).values() if isinstance(each, Family))
    by_type = {**families.BY_MODEL_TYPE, family.model_type: family}
    by_architecture = {**families.BY_ARCHITECTURE, **dict.fromkeys(family.architectures, family)}
    monkeypatch.setattr(families, "BY_MODEL_TYPE", MappingProxyType(by_type))
    monkeypatch.setattr(families, "BY_ARCHITECTURE", MappingProxyType(by_architecture))
    names = {name: getattr(transformers, name) for name in re.findall(r"SmolLM3\w+", entry)}
    names["SIZES"] = test_executor_generation.SIZES
    exec(f"models = {{{entry}}}", names)
    monkeypatch.setitem(test_executor_generation.MODELS, "smollm3", names["models"]["smollm3"])
    test_executor_generation.test_greedy_tokens_equal_those_of_transformers("smollm3", tmp_path)


def test_files_of_families_are_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in Path(families.__file__).parent.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 200} == {}
