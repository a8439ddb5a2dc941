"""Redis servers of the tests' own: alone, watched by a sentinel, or as a cluster."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import redis

from quire.services.up.ports import free_port
from quire.services.up.redis_server import redis_binary, redis_command

ACL = Path(__file__).parents[2] / "deploy/redis/users.acl"
NUM_SLOTS = 16384
# Until a call of a server that hangs is given up.
CALL_SECONDS = 5.0
# A cluster's nodes talk to each other on a port this much higher.
BUS_OFFSET = 10_000


class RedisServer:
    """One server on loopback that may end and start again.

    Args:
        options: further command-line options.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        while self.port + BUS_OFFSET > 65535:
            self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def start(self) -> None:
        """Returns when it answers."""
        # As with us, writing more than a limit of the process allows is an error, not its end (SIGXFSZ).
        command = [*redis_command(self.port), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
        with redis.Redis(port=self.port, retry=None) as client:
            wait_for(client)

    def stop(self) -> None:
        """Ends it; harmless if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While the context is open, it takes connections and bytes, and answers nothing."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    @property
    def process(self) -> psutil.Process | None:
        """It, as the machine sees it, if it runs."""
        return None if self._process is None else psutil.Process(self._process.pid)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal; harmless if it does not run."""
        if self._process is not None:
            self._process.send_signal(number)

    def call(self, *command: Any) -> Any:
        """What it answers to a command of somebody else; raises `redis.TimeoutError` if it does not for long."""
        with redis.Redis(port=self.port, socket_timeout=CALL_SECONDS, retry=None) as client:
            return client.execute_command(*command)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server that runs, and ends with the context."""
    server = RedisServer(*options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """The URL of a private Redis with further command-line `options`; gone afterwards."""
    with redis_server(*options) as server:
        yield server.url


@contextmanager
def guarded_redis(folder: Path, **passwords: str) -> Iterator[RedisServer]:
    """With the users of deploy/redis/users.acl.

    Args:
        passwords: of `quire` and of `audit`.
    """
    rules = ACL.read_text()
    for name, password in passwords.items():
        rules = rules.replace(f"{name.upper()}_PASSWORD_SHA256", sha256(password.encode()).hexdigest())
    file = folder / "users.acl"
    file.write_text(rules)
    with redis_server("--aclfile", str(file)) as server:
        yield server


@contextmanager
def redis_with_sentinel(folder: Path, service: str) -> Iterator[tuple[str, RedisServer, RedisServer]]:
    """(host:port of the sentinel, master, replica)."""
    with redis_server("--repl-diskless-sync-delay", "0", "--dir", str(folder)) as master, ExitStack() as stack:
        replica = stack.enter_context(redis_server("--replicaof", "127.0.0.1", str(master.port), "--dir", str(folder)))
        wait_until(lambda: b"connected" in replica.call("ROLE"))
        port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {service} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {service} 60000\nsentinel failover-timeout {service} 60000\n"
        )
        command = [redis_binary(), str(config), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        with redis.Redis(port=port, retry=None) as client:
            wait_for(client)
            wait_until(lambda: _has_replica(client, service))
        yield f"127.0.0.1:{port}", master, replica


@contextmanager
def redis_cluster(folder: Path, num_nodes: int = 3) -> Iterator[list[RedisServer]]:
    """The nodes of a cluster without replicas."""
    with ExitStack() as stack:
        nodes = []
        for i in range(num_nodes):
            options = ("--cluster-enabled", "yes", "--cluster-config-file", str(folder / f"nodes{i}.conf"))
            nodes.append(stack.enter_context(redis_server(*options, "--dir", str(folder))))
        for i, node in enumerate(nodes):
            node.call("CLUSTER", "ADDSLOTS", *range(NUM_SLOTS * i // num_nodes, NUM_SLOTS * (i + 1) // num_nodes))
            node.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            wait_until(lambda node=node: _knows_all(node, num_nodes))
        yield nodes


def wait_for(client: redis.Redis, seconds: float = 60.0) -> None:
    """Returns when the server answers, be it that it wants a password."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.ping()
        except redis.AuthenticationError:
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never holds"
        time.sleep(0.05)


def _has_replica(sentinel: redis.Redis, service: str) -> bool:
    replicas = sentinel.sentinel_slaves(service)
    return [replica["master-link-status"] for replica in replicas] == ["ok"]


def _knows_all(node: RedisServer, num_nodes: int) -> bool:
    slots = node.call("CLUSTER", "SLOTS")
    return b"cluster_state:ok" in node.call("CLUSTER", "INFO") and len(slots) == num_nodes
