"""`quire ledger` on a pool that is sound, and on pools that somebody spoilt by hand."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.prefix import in_group
from quire.services.cli import main
from support.redis_server import RedisServer, redis_server

POOL = PoolIdentity("10.0.0.1:8003", "first", "model", num_blocks=20, block_size=16)
NAMES = {block: bytes([65 + block]) * 16 for block in range(5)}


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """Blocks 0 and 1 are cached, 2 is held by two, 3 by one and published, 4 is held only; others are free."""
    running.call("FLUSHALL")
    asyncio.run(_fill(running.url))
    return running


async def _fill(url: str) -> None:
    ledger = RedisLedger.connect(url)
    await ledger.open(POOL, 1)
    await ledger.commit(POOL, 1, LedgerTransaction(acquire=[("7", block) for block in range(5)], step=3))
    names = [(block, NAMES[block]) for block in range(4)]
    released = [("7", 1, 1, 0), ("7", 0, 2, 2_000_000_000_000)]
    await ledger.commit(POOL, 1, LedgerTransaction(publish=names, release=released, share=[("8", 2)]))
    await ledger.close()


def key(part: str) -> str:
    return f"quire:{{{POOL.name}}}:{part}"


# What somebody does to Redis, and the blocks that the audit must name.
SPOILT: dict[str, tuple[list[tuple[Any, ...]], list[int]]] = {
    "a block that does not exist": ([("HSET", key("blocks"), 20, "7|")], [20]),
    "a holder twice": ([("HSET", key("blocks"), 4, "7,7|")], [4]),
    "two holders of an unpublished block": ([("HSET", key("blocks"), 4, "7,8|")], [4]),
    "cached though held": ([("ZADD", key("cached"), 9, 3)], [3]),
    "cached though not published": ([("ZADD", key("cached"), 9, 11)], [11]),
    "held by nobody and not cached": ([("ZREM", key("cached"), 1)], [1]),
    "an empty record": ([("HSET", key("blocks"), 12, "|")], [12]),
    "a hash that leads nowhere": ([("HDEL", key("index"), NAMES[2])], [2]),
    "a hash that leads elsewhere": ([("HSET", key("index"), NAMES[2], 3)], [2, 3]),
    "two blocks of one hash": ([("HSET", key("blocks"), 3, b"7|" + NAMES[2])], [3]),
    "a hash in the index alone": ([("HSET", key("index"), "z" * 16, 13)], [13]),
    "an expiry of a held block": ([("HSET", key("expires"), 3, 1000)], [3]),
    "a record that is lost": ([("HDEL", key("blocks"), 0)], [0]),
    "several at once": ([("ZREM", key("cached"), 0), ("HSET", key("blocks"), 4, "7,8|")], [0, 4]),
}


@pytest.mark.parametrize(("commands", "blocks"), SPOILT.values(), ids=SPOILT.keys())
def test_audit_names_the_blocks_at_fault(
    server: RedisServer, capsys: pytest.CaptureFixture[str], commands: list[tuple[Any, ...]], blocks: list[int]
) -> None:
    for command in commands:
        server.call(*command)
    assert main(["ledger", "audit", f"--redis={server.url}"]) == 1
    printed = capsys.readouterr().out
    for block in blocks:
        assert f"  block {block}: " in printed
    assert "faults" in printed
    assert "OK" not in printed
    assert main(["ledger", "audit", f"--redis={server.url}", "--json"]) == 1
    (pool,) = json.loads(capsys.readouterr().out)["pools"]
    assert pool["faults"] == [line.strip() for line in printed.splitlines()[1:]]


@pytest.mark.parametrize(
    "command",
    [("HSET", key("blocks"), "x", "7|"), ("HSET", key("meta"), "identity", "{}"), ("SET", key("index"), "x")],
)
def test_audit_of_what_cannot_be_read(
    server: RedisServer, capsys: pytest.CaptureFixture[str], command: tuple[Any, ...]
) -> None:
    server.call("DEL", key("index"))
    server.call(*command)
    code = main(["ledger", "audit", f"--redis={server.url}"])
    printed = capsys.readouterr()
    if command[0] == "HSET":
        assert (code, printed.out.strip().startswith(f"pool {POOL.name}: cannot be read")) == (1, True)
    else:
        assert code == 2
        assert "WRONGTYPE" in printed.err


def test_sound_pools(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "audit", f"--redis={server.url}"]) == 0
    line = "10.0.0.1:8003: 20 blocks of 16 tokens: 15 free, 2 cached, 3 held by 2 sequences: OK\n"
    assert capsys.readouterr().out == line
    assert main(["ledger", "show", f"--redis={server.url}", "--pool", POOL.name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(line)
    assert "▒▒▓██···········" in printed
    assert main(["ledger", "show", f"--redis={server.url}", "--json"]) == 0
    (pool,) = json.loads(capsys.readouterr().out)["pools"]
    assert pool["map"] == "▒▒▓██" + "·" * 15
    assert (pool["name"], pool["incarnation"], pool["step"], pool["faults"]) == (POOL.name, "first", 3, [])
    assert (pool["free"], pool["cached"], pool["held"], pool["holders"]) == (15, 2, 3, 2)


def test_cache_groups(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A sequence holds blocks in each group; it is one sequence."""
    pool = PoolIdentity("grouped", "x", "model", 8, 16, windows=(0, 1024))

    async def fill() -> None:
        ledger = RedisLedger.connect(server.url)
        await ledger.open(pool, 1)
        acquire = [("7", 0), ("7", 1), ("7.1", 2), ("7.1", 3), ("8.1", 4)]
        await ledger.commit(pool, 1, LedgerTransaction(acquire=acquire))
        publish = [(1, NAMES[1]), (2, in_group(NAMES[0], 1))]
        await ledger.commit(pool, 1, LedgerTransaction(publish=publish, release=[("7.1", 2, 1, 0)]))
        await ledger.close()

    asyncio.run(fill())
    assert main(["ledger", "show", f"--redis={server.url}", "--pool=grouped"]) == 0
    whole, *groups = capsys.readouterr().out.splitlines()[:3]
    assert whole == "grouped: 8 blocks of 16 tokens: 3 free, 1 cached, 4 held by 2 sequences: OK"
    assert groups == [
        "  group 0, all tokens: 0 cached, 2 held",
        "  group 1, window of 1024 tokens: 1 cached, 2 held",
    ]
    assert main(["ledger", "audit", f"--redis={server.url}", "--pool=grouped", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["pools"]
    assert found["groups"] == [{"window": 0, "cached": 0, "held": 2}, {"window": 1024, "cached": 1, "held": 2}]


def test_one_faulty_pool_among_two(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    broken = PoolIdentity("broken", "x", "model", 4, 16)
    ledger = RedisLedger.connect(server.url)

    async def spoil() -> None:
        await ledger.seed(broken, 1, PoolState(4, index={b"a": 2}))
        await ledger.close()

    asyncio.run(spoil())
    assert main(["ledger", "audit", f"--redis={server.url}"]) == 1
    sound, faulty, fault = capsys.readouterr().out.splitlines()
    assert sound.endswith("OK")
    assert faulty.endswith("1 faults")
    assert fault.startswith("  block 2: ")
    assert main(["ledger", "audit", f"--redis={server.url}", f"--pool={POOL.name}"]) == 0


def test_there_is_nothing_to_see(running: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    running.call("FLUSHALL")
    assert main(["ledger", "audit", f"--redis={running.url}"]) == 0
    assert "no pools" in capsys.readouterr().out
    assert main(["ledger", "audit", f"--redis={running.url}", "--pool=nowhere"]) == 2
    assert "--pool nowhere: there is no such pool" in capsys.readouterr().err
    assert main(["ledger", "audit", "--redis=redis://:secret@127.0.0.1:1"]) == 2
    assert "--redis redis://:***@127.0.0.1:1: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["ledger", "audit", "--redis=http://nowhere"])
    assert caught.value.code == 2
