"""A Redis for the time of a benchmark."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from quire.services.up.ports import free_port
from quire.services.up.redis_server import redis_command


@contextmanager
def private_redis() -> Iterator[str]:
    """URL of a server on loopback that keeps nothing; gone afterwards."""
    port = free_port()
    process = subprocess.Popen(redis_command(port), stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, retry=None) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)
