"""Recorded traces.

    jsonl     an object a line: `prompt` (text) or `input_ids`, `output_tokens`, if wanted `timestamp` (seconds)
    azure     the public Azure LLM inference traces: CSV with TIMESTAMP, ContextTokens, GeneratedTokens
    mooncake  the public Mooncake traces: JSONL with timestamp (ms), input_length, output_length, hash_ids; equal
              hash ids stand for equal blocks of 512 tokens

Lengths without contents get random token ids.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quire.clients.bench.mistake import first_mistake
from quire.clients.bench.workload.lengths import MAX_LENGTH
from quire.clients.bench.workload.session import Prompt, Session, Turn
from quire.clients.bench.workload.synthetic import random_ids
from quire.engine.api.errors import StartupError

TraceFormat = Literal["jsonl", "azure", "mooncake"]
MOONCAKE_BLOCK = 512
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
HashId = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One recorded request.

    Attributes:
        at: seconds since the trace's first request; None if the trace has no times.
        input_tokens: length of the prompt; 0 where the prompt is a text.
        output_tokens: tokens that were generated.
        prompt: what it was, if the trace tells.
        hash_ids: names of the prompt's blocks of `MOONCAKE_BLOCK` tokens, if the trace tells.
    """

    at: float | None
    input_tokens: int
    output_tokens: int
    prompt: Prompt | None = None
    hash_ids: tuple[int, ...] = ()


def read_trace(path: Path, trace_format: TraceFormat, limit: int | None = None) -> list[TraceEntry]:
    """The first `limit` requests of a trace, in the order of their times.

    Raises:
        StartupError: the file cannot be read as what it should be; names the line.
    """
    entries: list[TraceEntry] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: Iterator[Any] = csv.DictReader(file) if trace_format == "azure" else filter(str.strip, file)
            for number, row in enumerate(rows, start=1):
                if limit is not None and len(entries) >= limit:
                    break
                try:
                    entries.append(_PARSERS[trace_format](row))
                except ValidationError as error:
                    raise StartupError(
                        f"{path}: request {number} is not in the {trace_format} format: {first_mistake(error)}"
                    ) from error
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise StartupError(f"{path}: is not text in the {trace_format} format: {error}") from error
    if not entries:
        raise StartupError(f"{path}: the trace is empty")
    return _from_zero(entries)


def trace_sessions(entries: list[TraceEntry], vocab_size: int, seed: int, speed: float = 1.0) -> list[Session]:
    """Sessions of a trace, `speed` times as fast as it was; the same for the same seed."""
    sessions = []
    for index, entry in enumerate(entries):
        prompt = entry.prompt
        if prompt is None:
            prompt = _ids(entry, index, vocab_size, seed)
        at = None if entry.at is None else entry.at / speed
        sessions.append(Session((Turn(prompt, entry.output_tokens),), at))
    return sessions


def _ids(entry: TraceEntry, index: int, vocab_size: int, seed: int) -> Prompt:
    ids: list[int] = []
    for name in entry.hash_ids:
        ids += random_ids(np.random.default_rng((seed, 1, name)), MOONCAKE_BLOCK, vocab_size)
    rest = entry.input_tokens - len(ids)
    if rest > 0:
        ids += random_ids(np.random.default_rng((seed, 2, index)), rest, vocab_size)
    return tuple(ids[: entry.input_tokens])


def _from_zero(entries: list[TraceEntry]) -> list[TraceEntry]:
    times = [entry.at for entry in entries if entry.at is not None]
    if len(times) != len(entries):
        return [replace(entry, at=None) for entry in entries]
    first = min(times)
    return sorted(
        (replace(entry, at=(entry.at or 0.0) - first) for entry in entries), key=lambda entry: entry.at or 0.0
    )


class _Row(BaseModel):
    """Fields of a request in a format; further fields are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class _JsonlRow(_Row):
    timestamp: float | None = None
    output_tokens: int = Field(ge=1, le=MAX_LENGTH)
    prompt: str | None = Field(None, min_length=1)
    input_ids: tuple[TokenId, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Self:
        if (self.prompt is None) == (self.input_ids is None):
            raise ValueError("must have prompt or input_ids")
        return self


class _AzureRow(_Row):
    moment: datetime = Field(alias="TIMESTAMP")
    input_tokens: int = Field(alias="ContextTokens", ge=1, le=MAX_LENGTH)
    output_tokens: int = Field(alias="GeneratedTokens", ge=0, le=MAX_LENGTH)


class _MooncakeRow(_Row):
    timestamp: float
    input_length: int = Field(ge=1, le=MAX_LENGTH)
    output_length: int = Field(ge=0, le=MAX_LENGTH)
    hash_ids: tuple[HashId, ...] = ()


def _jsonl(line: str) -> TraceEntry:
    row = _JsonlRow.model_validate_json(line, strict=True)
    prompt = row.prompt if row.prompt is not None else row.input_ids
    return TraceEntry(row.timestamp, len(row.input_ids or ()), row.output_tokens, prompt)


def _azure(fields: dict[str, str]) -> TraceEntry:
    row = _AzureRow.model_validate(fields)
    moment = row.moment if row.moment.tzinfo else row.moment.replace(tzinfo=UTC)
    # A few requests of the public traces generated nothing that was counted.
    return TraceEntry(moment.timestamp(), row.input_tokens, max(1, row.output_tokens))


def _mooncake(line: str) -> TraceEntry:
    row = _MooncakeRow.model_validate_json(line, strict=True)
    return TraceEntry(row.timestamp / 1000, row.input_length, max(1, row.output_length), None, row.hash_ids)


_PARSERS: dict[TraceFormat, Callable[[Any], TraceEntry]] = {
    "jsonl": _jsonl,
    "azure": _azure,
    "mooncake": _mooncake,
}
