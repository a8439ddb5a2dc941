"""The `Machine`: measured rates, and the share of them that a step reaches."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from itertools import pairwise
from math import log
from typing import Any, Final

from quire.engine.api.errors import StartupError

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number is from.

    Attributes:
        number: which number it is.
        when: when it was measured or published.
    """

    number: str
    source: str
    when: date


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine can do.

    Attributes:
        name, title: as `--gpu` has it, and for people.
        is_gpu: it computes on a GPU, otherwise on a CPU.
        memory: bytes of the GPU; 0: a CPU's pool is what the settings say.
        read: bytes per second.
        multiply: operations per second of matrix products in bfloat16.
        decode: sequences that generate → share of the bound that such a step reaches.
        prefill: the same of a step of context.
        is_estimate: no step was measured on it.
        sources: of all these.
    """

    name: str
    title: str
    is_gpu: bool
    memory: int
    read: float
    multiply: float
    decode: Mapping[int, float]
    prefill: float
    is_estimate: bool
    sources: tuple[Source, ...]

    def decode_share(self, num_sequences: int) -> float:
        """Interpolated over the logarithm of the number; beyond the measured ones, that of the nearest."""
        points = sorted(self.decode.items())
        for (low, first), (high, second) in pairwise(points):
            if low <= num_sequences <= high:
                return first + (second - first) * log(num_sequences / low) / log(high / low)
        return points[0][1] if num_sequences < points[0][0] else points[-1][1]


def machine_names() -> list[str]:
    """All that are known."""
    return list(_table())


def machine(name: str) -> Machine:
    """
    Raises:
        StartupError: it is not known; the message lists those that are.
    """
    table = _table()
    if name not in table:
        raise StartupError(f"--gpu {name}: must be one of {', '.join(table)}")
    entry = table[name]
    model = table[entry.get("like", name)]
    memory = entry.get("memory_mib", {"value": 0})["value"] * MIB
    return Machine(
        name=name,
        title=entry["title"],
        is_gpu=entry["device"] == "cuda",
        memory=memory,
        read=_rate(entry, model, "read"),
        multiply=_rate(entry, model, "multiply"),
        decode={int(count): share for count, share in model["decode"]["shares"].items()},
        prefill=model["prefill"]["value"],
        is_estimate="like" in entry,
        sources=_sources(entry, model),
    )


def _rate(entry: Mapping[str, Any], model: Mapping[str, Any], name: str) -> float:
    """Measured; or what the specification says, times the share of its own that the measured machine reaches."""
    if name in entry:
        return float(entry[name]["value"])
    return float(entry[f"spec_{name}"]["value"] * model[name]["value"] / model[f"spec_{name}"]["value"])


def _sources(entry: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[Source, ...]:
    """Of the numbers that count: of a measured machine, its specification does not."""
    is_measured = model is entry
    rows = [(entry, name) for name in entry if not (is_measured and name.startswith("spec_"))]
    rows += [(model, name) for name in model if not is_measured and name != "memory_mib"]
    numbers = [(f"{owner['title']}, {name}", owner[name]) for owner, name in rows if isinstance(owner[name], dict)]
    return tuple(Source(name, number["source"], number["date"]) for name, number in numbers)


def _table() -> Mapping[str, Any]:
    return tomllib.loads(files("quire.services.plan").joinpath("machines.toml").read_text(encoding="utf-8"))
