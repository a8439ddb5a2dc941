#!/usr/bin/env python3
"""Writes docs/reference/helm.md: every value of the Helm chart, from the comments in its values.yaml.

python tools/helm_reference.py FILE
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

VALUES = Path(__file__).parents[1] / "deploy" / "helm" / "quire" / "values.yaml"
INTRODUCTION = """\
# Values of the Helm chart

<!-- Written by `make reference` from deploy/helm/quire/values.yaml; edit that. -->

Of `deploy/helm/quire`. [On Kubernetes](../kubernetes.md) says how to use it.

| value | default | meaning |
|---|---|---|
"""


class Value(NamedTuple):
    """What may be set; `meaning` is the comment above it."""

    name: str
    default: object
    meaning: str


def helm_page() -> str:
    rows = [f"| `{each.name}` | {_shown(each.default)} | {each.meaning} |\n" for each in values()]
    return INTRODUCTION + "".join(rows)


def values() -> Iterator[Value]:
    """What has a comment; a group without one is told of by its parts."""
    text = VALUES.read_text()
    comments = dict(_comments(text))
    yield from _walk(yaml.compose(text), "", comments)


def _walk(node: yaml.MappingNode, prefix: str, comments: dict[int, str]) -> Iterator[Value]:
    for key, child in node.value:
        name = f"{prefix}{key.value}"
        comment = comments.get(key.start_mark.line, "")
        if isinstance(child, yaml.MappingNode) and not comment:
            yield from _walk(child, f"{name}.", comments)
        else:
            yield Value(name, yaml.safe_load(yaml.serialize(child)), comment)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Number of a line, from 0, and the comment in the lines directly above it."""
    above: list[str] = []
    for number, line in enumerate(text.splitlines()):
        if line.lstrip().startswith("# "):
            above.append(line.strip().removeprefix("# "))
            continue
        if above and line.strip():
            yield number, " ".join(above)
        above = []


def _shown(default: object) -> str:
    if default in ("", {}, []):
        return "empty"
    # YAML ends a lone word with a line of three dots.
    return f"`{yaml.safe_dump(default, default_flow_style=True, width=1000).partition(chr(10))[0]}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(helm_page())
