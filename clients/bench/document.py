"""A benchmark's result as JSON: what was run, where, and the figures of each load."""

import os
import platform
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from quire.clients.bench.mistake import first_mistake
from quire.engine.api.errors import StartupError
from quire.engine.api.version import __version__


@dataclass(frozen=True, slots=True)
class Run:
    """One load and its figures.

    Attributes:
        load: such as {"concurrency": 4} or {"rate": 2.0, "burstiness": 1.0}.
        summary: `Summary.to_json()`, or the figures of an offline run.
    """

    load: Annotated[dict[str, int | float | str], Field(min_length=1)]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the load, such as "concurrency 4"."""
        key, value = next(iter(self.load.items()))
        return f"{key.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{key} {value}"

    def figure(self, *path: str) -> float | None:
        """A number of the summary, such as that at ("ttft_ms", "p50"); None if it has none there."""
        found: Any = self.summary
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return float(found) if isinstance(found, float) or (isinstance(found, int) and abs(found) < 2**63) else None


@dataclass(frozen=True, slots=True)
class Document:
    """The record of a benchmark.

    Attributes:
        when: start of the benchmark, in UTC.
        quire: version of Quire that measured.
        machine: where it measured; the server may run elsewhere.
        model: name of the model, as the server gives it.
        settings: all settings of the command.
    """

    format: Literal[1]
    when: str
    quire: str
    python: str
    machine: str
    model: str
    settings: dict[str, Any]
    runs: list[Run]


_DOCUMENT = TypeAdapter(Document)


def make_document(settings: dict[str, Any], model: str, runs: list[Run], started: float) -> Document:
    """The result of a benchmark on this machine that began at `started`, in seconds of `time.time()`."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    return Document(1, when, __version__, platform.python_version(), machine, model, settings, runs)


def check_writable(path: Path) -> None:
    """Before the time for a benchmark is spent.

    Raises:
        StartupError: no file can be written there.
    """
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StartupError(f"{path}: cannot be written")


def write_document(path: Path, document: Document) -> None:
    """Writes the result of a benchmark."""
    path.write_bytes(_DOCUMENT.dump_json(document, indent=1) + b"\n")


def read_document(path: Path) -> Document:
    """The result in a file.

    Raises:
        StartupError: the file is none; names what is wrong in it.
    """
    try:
        return _DOCUMENT.validate_json(path.read_bytes())
    except OSError as error:
        raise StartupError(f"{path}: not a result of quire bench: {error.strerror}") from error
    except ValidationError as error:
        raise StartupError(f"{path}: not a result of quire bench: {first_mistake(error)}") from error
