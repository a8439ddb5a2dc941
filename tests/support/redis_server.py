"""A redis-server of the tests' own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from quire.services.up.redis_server import redis_command
from quire.services.up.stack import free_port


@contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """The URL of a private Redis with further command-line `options`; gone afterwards."""
    port = free_port()
    process = subprocess.Popen([*redis_command(port), *options], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, retry=None) as client:
            wait_for(client)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def wait_for(client: redis.Redis, seconds: float = 10.0) -> None:
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
