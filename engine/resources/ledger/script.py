"""A Lua script beside this module, which a server runs as one step that nothing can interrupt."""

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError

from quire.engine.api.errors import LedgerError


class Script:
    """Travels whole only to a server that does not know it: a new, restarted or flushed one.

    Args:
        names: of the files that make it, in their order.
    """

    def __init__(self, *names: str) -> None:
        folder = files("quire.engine.resources.ledger")
        self._name = names[-1]
        self._text = "".join(folder.joinpath(name).read_text() for name in names)
        # A name for the text, not a protection.
        self._digest = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis | RedisCluster, keys: Sequence[str], *args: str | int | bytes) -> list[Any]:
        """Runs it on the server that has the keys; its answer is a list, the first item of which is a word."""
        try:
            reply = await redis.evalsha(self._digest, len(keys), *keys, *args)
        except NoScriptError:
            reply = await redis.eval(self._text, len(keys), *keys, *args)
        if not isinstance(reply, list):
            raise LedgerError(f"{self._name}: unexpected reply {reply!r}")
        return reply
