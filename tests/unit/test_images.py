"""Dockerfile, compose.yaml and their documents name the same things. Containers themselves: tests/compose."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = "\n".join((ROOT / name).read_text() for name in ("compose.yaml", "compose.gpu.yaml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCUMENT = (ROOT / "docs" / "deployment.md").read_text()


def test_every_service_with_an_image_of_ours_has_a_target() -> None:
    targets = set(re.findall(r"target: ([\w-]+)", COMPOSE))
    assert targets == set(re.findall(r"^FROM service AS ([\w-]+)$", DOCKERFILE, re.MULTILINE))
    assert targets == set(re.findall(r"^\| `(\w[\w-]*)` \| (?:no )?PyTorch", DOCUMENT, re.MULTILINE))


def test_every_target_says_whether_it_is_well() -> None:
    stages = re.split(r"^FROM service AS ", DOCKERFILE, flags=re.MULTILINE)[1:]
    for stage in stages:
        own = stage.split("\nFROM ")[0]
        (port,) = re.findall(r'HEALTHCHECK .* CMD \["quire", "health", (?:"[^"]+", )*"127.0.0.1:(\d+)"\]', own)
        assert re.search(rf"^EXPOSE .*{port}", own, re.MULTILINE), own
        assert f"_LISTEN=0.0.0.0:{port}" in own


def test_the_variables_of_compose_are_documented() -> None:
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE)) | set(re.findall(r"^ +(\w+):$", COMPOSE, re.MULTILINE))
    variables = {name for name in variables if name.isupper()}
    assert variables == set(re.findall(r"`([A-Z_]+)`", DOCUMENT.split("## Containers")[1].split("### Images")[0]))


def test_an_extra_needs_what_the_extras_in_it_need(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "tools" / "requirements.py"))["main"](ROOT / "pyproject.toml", tmp_path)
    lines = {path.stem: set(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines["gpu"] > lines["executor"] > lines["executor"] & lines["frontend"] > set()
    assert lines["all"] > lines["frontend"] | lines["scheduler"] | lines["executor"]
    assert not [line for extra in lines.values() for line in extra if line.startswith("quire")]
