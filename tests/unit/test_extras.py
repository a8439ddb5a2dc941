"""The extras: one table by package in pyproject.toml, one by module for messages."""

import re
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from quire.engine.api.errors import StartupError
from quire.services import extras

ROOT = Path(__file__).resolve().parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_both_tables_name_the_same_packages(extra: str) -> None:
    distributions = packages_distributions()
    by_module = {distributions[module][0].replace("_", "-").lower() for module in extras.EXTRAS[extra]}
    assert by_module == {re.split(r"[\[<>=]", requirement)[0] for requirement in DECLARED[extra]}


def test_what_is_missing_and_what_brings_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.check_extras(tuple(extras.EXTRAS))
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("redis", "torch") else find_spec(name))
    extras.check_extras(("frontend",))
    with pytest.raises(StartupError) as caught:
        extras.check_extras(("frontend", "scheduler", "executor"))
    assert str(caught.value) == "not installed: redis, torch; pip install 'quire[scheduler,executor]'"
