"""Writes what each extra needs to a file of its own, for images whose layers of packages outlast changes of Quire.

python tools/requirements.py pyproject.toml FOLDER
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_ITSELF: Final = re.compile(r"quire\[(.*)\]")


def requirements(extra: str, extras: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Of an extra and those that it includes."""
    for requirement in extras[extra]:
        if included := _ITSELF.fullmatch(requirement):
            for name in included[1].split(","):
                yield from requirements(name, extras)
        else:
            yield requirement


def main(pyproject: Path, folder: Path) -> None:
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    folder.mkdir(parents=True, exist_ok=True)
    for extra in extras:
        lines = sorted({*project["dependencies"], *requirements(extra, extras)})
        (folder / f"{extra}.txt").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
