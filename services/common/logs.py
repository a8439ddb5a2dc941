"""Logging, configured once where a process starts."""

import logging
import sys


def configure(level: str) -> None:
    """One line per message on standard error: time, level, what it is about."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("httpx", "urllib3", "filelock", "asyncio", "grpc", "redis"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
