"""A benchmark's result as JSON: what was run, where, and the figures of each load."""

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.engine.api.errors import StartupError
from quire.engine.api.version import __version__

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Run:
    """One load and its figures.

    Attributes:
        load: such as {"concurrency": 4} or {"rate": 2.0, "burstiness": 1.0}.
        summary: `Summary.to_json()`, or the figures of an offline run.
    """

    load: dict[str, Any]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """Such as "concurrency 4"."""
        key, value = next(iter(self.load.items()))
        return f"{key.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{key} {value}"


def check_writable(path: Path) -> None:
    """Before the time for a benchmark is spent.

    Raises:
        StartupError: no file can be written there.
    """
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StartupError(f"{path}: cannot be written")


def write_document(path: Path, settings: dict[str, Any], model: str, runs: list[Run]) -> None:
    """Writes the result of a benchmark."""
    document = {
        "format": FORMAT,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quire": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "model": model,
        "settings": settings,
        "runs": [{"load": run.load, "summary": run.summary} for run in runs],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_runs(path: Path) -> list[Run]:
    """The runs of a result.

    Raises:
        StartupError: the file is none.
    """
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise StartupError(f"{path}: format must be {FORMAT}, got {document['format']!r}")
        runs = [Run(run["load"], run["summary"]) for run in document["runs"]]
        if not all(run.load for run in runs):
            raise ValueError("a run has no load")
        return runs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{path}: not a result of quire bench: {error}") from error
