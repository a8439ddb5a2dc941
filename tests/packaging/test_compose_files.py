"""compose.secure.yaml: its settings exist, and name files that the containers have."""

from importlib import import_module
from typing import Any

import pytest
import yaml

from quire.clients.health import Settings as Health
from quire.services.cli import COMMANDS
from support.manifests import ROOT

SECURE = yaml.safe_load((ROOT / "compose.secure.yaml").read_text())
PLAIN = yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.mark.parametrize("name", ["executor", "scheduler", "frontend"])
def test_settings_name_files_that_are_there(name: str) -> None:
    service: dict[str, Any] = SECURE["services"][name]
    known = {f"QUIRE_HEALTH_{field.upper()}" for field in Health.model_fields}
    settings = import_module(COMMANDS[name].module).Settings
    known |= {settings.model_config["env_prefix"] + field.upper() for field in settings.model_fields}
    assert service["environment"].keys() <= known
    files = {value for value in service["environment"].values() if value.startswith("/run/secrets/")}
    assert files == {f"/run/secrets/{secret}" for secret in service["secrets"]}
    assert set(service["secrets"]) <= SECURE["secrets"].keys()
    assert name in PLAIN["services"]


def test_no_environment_has_a_secret() -> None:
    for name, service in SECURE["services"].items():
        for variable in PLAIN["services"][name].get("environment", {}):
            if "REDIS" in variable and "METRICS" not in variable:
                assert "PASSWORD:-" not in service["environment"][variable]
