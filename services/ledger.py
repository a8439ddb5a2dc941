"""`quire ledger`: proves the books of a live system, or draws them."""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.services.common.settings import ProcessSettings

FREE, CACHED, HELD, SHARED = "·", "▒", "█", "▓"


class Settings(ProcessSettings):
    """Audit the KV-block ledger of a live system, or show its pools."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_LEDGER_")

    action: CliPositionalArg[Literal["audit", "show"]]
    """audit: check every invariant, name the blocks at fault and exit with 1 if there are any; show: draw each pool."""

    redis: str = Field("redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix)://")
    """URL of the Redis that holds the ledger."""

    pool: str | None = None
    """Name of one pool; default: all."""


def run(settings: Settings) -> int:
    """Returns the exit code: 0 if the books are sound."""
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    ledger = RedisLedger.connect(settings.redis)
    try:
        names = [settings.pool] if settings.pool else await ledger.pools()
        pools = [(name, await ledger.snapshot(name)) for name in names]
    finally:
        await ledger.close()
    num_faults = 0
    for name, found in pools:
        if found is None:
            print(f"{name}: no such pool", file=sys.stderr)
            num_faults += 1
            continue
        faults = audit(found[1])
        num_faults += len(faults)
        print(_summary(*found))
        if settings.action == "show":
            print(_map(found[1]))
        for fault in faults:
            print(f"  {fault}")
    if not pools:
        print("the ledger has no pools")
    return 1 if num_faults else 0


def _summary(identity: PoolIdentity, state: PoolState) -> str:
    num_held, num_cached = len(state.refs), len(state.cached)
    return (
        f"{identity.name}: {state.num_blocks} blocks of {identity.block_size} tokens: "
        f"{state.num_blocks - num_held - num_cached} free, {num_cached} cached, "
        f"{num_held} held by {len(state.holds)} sequences"
    )


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
