"""What the documents tell people to type."""

import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(page: str, heading: str) -> str:
    """The first block of commands below a heading such as "### With Compose"."""
    _, _, section = (DOCS / page).read_text().partition(f"\n{heading}\n")
    assert section, f"{page} has no {heading}"
    lines: list[str] = []
    for line in section.splitlines():
        if line.startswith("    "):
            lines.append(line)
        elif lines:
            break
    return textwrap.dedent("\n".join(lines))
