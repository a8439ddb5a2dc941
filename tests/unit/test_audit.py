"""tools/audit.py: what it says of pip-audit's reports, and which versions it asks for."""

import runpy
from pathlib import Path
from typing import Any

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "audit.py"))
FINE = {"name": "numpy", "version": "2.0", "vulns": []}
SKIPPED = {"name": "quire", "skip_reason": "not found: quire"}
BAD = {"name": "tqdm", "version": "4.66", "vulns": [{"id": "PYSEC-1", "fix_versions": ["4.66.3"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([FINE, FINE], 0, "installed: 2 audited, 0 not, 0 vulnerabilities"),
        ([FINE, FINE, SKIPPED], 0, "not audited: not found: quire"),
        ([FINE, BAD], 1, "tqdm 4.66: PYSEC-1, fixed in 4.66.3"),
        ([SKIPPED, SKIPPED, BAD], 1, "installed: 1 audited, 2 not, 1 vulnerabilities"),
        ([FINE, SKIPPED, SKIPPED], 2, "the database of advisories did not answer, as of not found: quire"),
    ],
)
def test_what_is_known(packages: list[Any], code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert AUDIT["judged"]("installed", packages) == code
    assert line in capsys.readouterr().out


def test_lowest_versions_are_those_of_the_package() -> None:
    extras = {"all": ["quire[top]"], "top": ["rich>=14,<15; python_version>'3'", "redis[hiredis]>=6", "unbounded"]}
    project = {"dependencies": ["protobuf>=6.33.5,<8"], "optional-dependencies": extras}
    assert AUDIT["lowest"](project) == ["protobuf==6.33.5", "redis==6", "rich==14"]
