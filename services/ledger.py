"""`quire ledger`: proves the books of a live system, or draws them."""

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from quire.engine.api.errors import LedgerError, LedgerUnreachable
from quire.engine.resources.holder import split_holder
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.connection import RedisUrl, redacted
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.prefix import group_of
from quire.services.common.settings import ProcessSettings

FREE, CACHED, HELD, SHARED = "·", "▒", "█", "▓"
SOUND, FAULTY, UNKNOWN = 0, 1, 2


class Settings(ProcessSettings):
    """Audit the KV-block ledger of a live system, or show its pools: exits with 0 if all is sound, else with 1."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_LEDGER_")

    action: CliPositionalArg[Literal["audit", "show"]]
    """audit: check every invariant and name the blocks at fault; show: draw each pool's blocks, too."""

    redis: RedisUrl = "redis://127.0.0.1:6379/0"
    """URL of the Redis that holds the ledger: redis, rediss, unix, redis+sentinel or redis+cluster."""

    redis_password_file: Path | None = None
    """File with the password of the user that the URL names, read for each connection; default: the URL has it, or
    there is none."""

    pool: str | None = None
    """Name of one pool; default: all."""

    json_output: bool = Field(False, alias="json")
    """Print one JSON object for programs."""


@dataclass(frozen=True, slots=True)
class Report:
    """Audit of one pool; no identity if it cannot be read."""

    name: str
    identity: PoolIdentity | None
    state: PoolState
    faults: list[str]


def run(settings: Settings) -> int:
    """Returns the exit code: 0 if the books are sound, 1 if not, 2 if they cannot be had."""
    try:
        reports = asyncio.run(_read(settings))
    except (ValueError, LedgerUnreachable) as error:
        print(f"quire ledger: error: --redis {redacted(settings.redis)}: {error}", file=sys.stderr)
        return UNKNOWN
    if settings.pool and not reports:
        print(f"quire ledger: error: --pool {settings.pool}: there is no such pool", file=sys.stderr)
        return UNKNOWN
    draw = settings.action == "show"
    if settings.json_output:
        print(json.dumps({"pools": [_as_json(report, draw) for report in reports]}, ensure_ascii=False))
    else:
        for report in reports:
            print(_as_text(report, draw))
        if not reports:
            print("the ledger has no pools")
    return FAULTY if any(report.faults for report in reports) else SOUND


async def _read(settings: Settings) -> list[Report]:
    ledger = RedisLedger.connect(settings.redis, password_file=settings.redis_password_file)
    try:
        names = [settings.pool] if settings.pool else await ledger.pools()
        reports = [await _report(ledger, name) for name in names]
    finally:
        await ledger.close()
    return [report for report in reports if report is not None]


async def _report(ledger: RedisLedger, name: str) -> Report | None:
    try:
        found = await ledger.snapshot(name)
    except LedgerUnreachable:
        raise
    except LedgerError as error:
        return Report(name, None, PoolState(0), [str(error)])
    return None if found is None else Report(name, *found, audit(found[1], found[0].num_groups))


def _counts(state: PoolState) -> dict[str, int]:
    num_held, num_cached = len(state.refs), len(state.cached)
    num_free = state.num_blocks - num_held - num_cached
    num_holders = len({split_holder(holder)[0] for holder in state.holds})
    return {"free": num_free, "cached": num_cached, "held": num_held, "holders": num_holders}


def _groups(identity: PoolIdentity, state: PoolState) -> list[dict[str, int]]:
    """Of each cache group its window, 0 without one, and its blocks."""
    cached = Counter(group_of(state.hashes.get(block, b"")) for block in state.cached)
    held = {block: split_holder(holder)[1] for holder, blocks in state.holds.items() for block in blocks}
    counts = Counter(held.values())
    return [
        {"window": window, "cached": cached[group], "held": counts[group]}
        for group, window in enumerate(identity.windows)
    ]


def _as_json(report: Report, draw: bool) -> dict[str, Any]:
    identity = asdict(report.identity) if report.identity else {}
    drawn = {"map": "".join(_cells(report.state))} if draw else {}
    counts: dict[str, Any] = {"step": report.state.step, **_counts(report.state)}
    if report.identity:
        counts["groups"] = _groups(report.identity, report.state)
    return {"name": report.name, **identity, **counts, "faults": report.faults, **drawn}


def _as_text(report: Report, draw: bool) -> str:
    lines = []
    if report.identity is not None:
        counts = _counts(report.state)
        lines.append(
            f"{report.name}: {report.state.num_blocks} blocks of {report.identity.block_size} tokens: "
            f"{counts['free']} free, {counts['cached']} cached, "
            f"{counts['held']} held by {counts['holders']} sequences: "
            f"{f'{len(report.faults)} faults' if report.faults else 'OK'}"
        )
        for number, group in enumerate(_groups(report.identity, report.state)):
            sees = f"window of {group['window']} tokens" if group["window"] else "all tokens"
            lines.append(f"  group {number}, {sees}: {group['cached']} cached, {group['held']} held")
        if draw:
            lines.append(_map(report.state))
    lines.extend(f"  {fault}" for fault in report.faults)
    return "\n".join(lines)


def _map(state: PoolState) -> str:
    """One character per block, in rows of the terminal's width."""
    width = max(16, (shutil.get_terminal_size().columns - 10) // 16 * 16)
    cells = list(_cells(state))
    rows = (f"{start:>8}  {''.join(cells[start : start + width])}" for start in range(0, len(cells), width))
    return "\n".join([*rows, f"          {FREE} free  {CACHED} cached  {HELD} held  {SHARED} held by several"])


def _cells(state: PoolState) -> Iterator[str]:
    for block in range(state.num_blocks):
        refs = state.refs.get(block, 0)
        if refs:
            yield HELD if refs == 1 else SHARED
        else:
            yield CACHED if block in state.cached else FREE
