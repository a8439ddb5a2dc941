"""The units of deploy/systemd: systemd understands them, and the settings that they name exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
QUIRE = "/opt/quire/bin/quire"
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_a_unit(unit: Path, tmp_path: Path) -> None:
    instance = tmp_path / unit.name.replace("@.", "@0.")
    instance.write_text(unit.read_text().replace(QUIRE, sys.executable))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", instance], capture_output=True, text=True, check=False, timeout=60
    )
    assert (found.stderr, found.returncode) == ("", 0)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_names_settings_that_exist(unit: Path) -> None:
    text = unit.read_text()
    command = re.search(rf"^ExecStart={QUIRE} (\w+) (.+)$", text, re.MULTILINE)
    assert command is not None
    section = SETTINGS.split(f"## quire {command[1]}\n")[1].split("\n## ")[0]
    named = [*re.findall(r"--[\w-]+", command[2]), *re.findall(r"QUIRE_\w+", text)]
    assert [name for name in named if f"`{name}`" not in section] == []
