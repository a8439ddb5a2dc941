"""The documents agree with the code: generated pages are current, flags and messages exist, links resolve."""

import ast
import re
import runpy
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings, CliApp

from quire.services.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md"))])
SOURCES = ("clients", "engine", "kernels", "protos", "services")
OPERATIONS = "operations.md"
# Of Redis, gRPC and others.
FOREIGN = ("OOM ", "ping timeout", "connection attempt", "--log-format", "request_id")
SECTION = re.compile(r"^## quire (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| `--([\w.-]+)`<br>`(\w+)` \| (.+?) \| (.+?) \|", re.MULTILINE)


def tool(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / name))


def settings_sections() -> dict[str, str]:
    _, *parts = SECTION.split((DOCS / "reference" / "settings.md").read_text())
    return dict(zip(parts[::2], parts[1::2], strict=True))


def settings_of(command: str) -> type[BaseSettings]:
    settings: type[BaseSettings] = import_module(COMMANDS[command].module).Settings
    return settings


def test_the_settings_reference_is_current() -> None:
    page = tool("settings_reference.py")["settings_page"]()
    assert page == (DOCS / "reference" / "settings.md").read_text(), "run: make reference"


def test_the_grpc_reference_is_current() -> None:
    pages = tool("grpc_reference.py")["grpc_pages"]()
    found = {name: (DOCS / "reference" / name).read_text() for name in pages}
    assert pages == found, "run: make reference"


def test_the_metrics_reference_is_current() -> None:
    page = tool("metrics_reference.py")["metrics_page"]()
    assert page == (DOCS / "reference" / "metrics.md").read_text(), "run: make reference"


def test_the_reference_of_the_chart_is_current_and_says_what_each_value_means() -> None:
    helm = tool("helm_reference.py")
    assert helm["helm_page"]() == (DOCS / "reference" / "helm.md").read_text(), "run: make reference"
    assert [value.name for value in helm["values"]() if not value.meaning] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_variable_of_the_settings_reference_is_read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section = settings_sections()[command]
    rows = ROW.findall(section)
    for _, variable, kind, default in rows:
        given = default.startswith("`") or default in ("yes", "no")
        value = default.strip("`") if given else _example(kind)
        monkeypatch.setenv(variable, {"yes": "true", "no": "false"}.get(value, value))
    positional = re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE)
    words = ["audit"] if command == "ledger" else ["h:1" if name == "ADDRESS" else "x" for name in positional]
    read = set(_set_fields(CliApp.run(settings_of(command), cli_args=words)))
    assert {flag.replace("-", "_") for flag, *_ in rows} <= read


def _example(kind: str) -> str:
    if kind.startswith("host:port"):
        return "h:1"
    if kind == "yes or no":
        return "true"
    examples = {"URL": "redis://h", "HTTP URL": "http://h", "number, 0 to 1": "1"}
    return examples.get(kind) or ("[]" if "several" in kind else "2" if "number" in kind else "x")


def _set_fields(made: Any, prefix: str = "") -> Iterator[str]:
    for name in made.model_fields_set:
        field = type(made).model_fields[name]
        value = getattr(made, name)
        if hasattr(value, "model_fields_set"):
            yield from _set_fields(value, f"{name}.")
        else:
            yield prefix + (field.alias or name)


def test_every_flag_in_the_documents_exists() -> None:
    known = {flag for section in settings_sections().values() for flag, *_ in ROW.findall(section)}
    for page in PAGES:
        for flag in re.findall(r"--(?:no-)?((?:executor|scheduler)\.[a-z0-9-]+)", page.read_text()):
            assert flag in known, f"{page.name}: --{flag}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "notes"], ids=lambda page: page.name)
def test_every_file_that_a_document_names_exists(page: Path) -> None:
    folders = "benchmarks|clients|deploy|engine|kernels|protos|services|tests|tools"
    for name in re.findall(rf"`((?:{folders})/[a-z0-9_/.*]+\.[a-z]+)`", page.read_text()):
        assert any(ROOT.glob(name)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text()), target


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation() -> None:
    pages = set(_leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert pages == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for child in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(child)


def messages(page: str, row: str) -> list[str]:
    """What stands in backticks in cells of a page that a pattern finds."""
    cells = re.findall(row, (DOCS / page).read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


TOLD = messages("troubleshooting.md", r"^\| (.+?) \|") + messages(OPERATIONS, r"^\| (?:log|live page)\b.*? \| (.+?) \|")


@pytest.mark.parametrize("message", [message for message in TOLD if not message.startswith(FOREIGN)])
def test_every_message_of_the_documents_is_in_the_code(message: str) -> None:
    assert any(message in known for known in known_messages())


def test_every_metric_of_the_operations_page_exists() -> None:
    known = (DOCS / "reference" / "metrics.md").read_text()
    named = set(re.findall(r"\bquire_(?:frontend|scheduler|executor)_\w+", (DOCS / OPERATIONS).read_text()))
    assert named
    assert [metric for metric in named if f"`{metric}`" not in known] == []


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    _, *parts = re.split(r"^## (.+)$", (DOCS / OPERATIONS).read_text(), flags=re.MULTILINE)
    sections = {next(iter(anchors(f"## {title}"))): text for title, text in zip(parts[::2], parts[1::2], strict=True)}
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == f"docs/{OPERATIONS}"
        assert f"`{alert['alert']}`" in sections[anchor]


@cache
def known_messages() -> list[str]:
    """Strings of the sources, with … where something is filled in."""
    strings = []
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            strings += [_with_gaps(node) for node in ast.walk(ast.parse(path.read_text())) if _is_text(node)]
    return strings


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _with_gaps(node: ast.AST) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts]
    return re.sub(r"%[-.\d]*[a-z]|\{\w+\}", "…", "".join(texts))


@pytest.mark.parametrize("name", ["scheduler.md", "kv_cache_manager.md"])
def test_a_worked_example_is_the_code_that_the_tests_install(name: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)
    sources = [path.read_text() for path in (ROOT / "examples" / "plugins").rglob("*.py")]
    assert len(examples) == 2
    assert all(example in sources for example in examples)
