"""Where a service's peers are: addresses, and names that stand for as many addresses as they have."""

import asyncio
import logging
import socket
from typing import Final

from quire.services.common.address import joined

logger = logging.getLogger(__name__)

# Between two looks at the names.
RESOLVE_SECONDS: Final = 2.0
DNS: Final = "dns:"


class Targets:
    """What a setting of type `Addresses` names.

    Args:
        names: "host:port", or "dns:name:port" for all addresses that the name has; separated by commas.
    """

    def __init__(self, names: str) -> None:
        # What was found last for each; while a name server does not answer, nobody is dropped.
        self._found: dict[str, set[str]] = {name: set() for name in names.split(",")}

    def __str__(self) -> str:
        return ",".join(self._found)

    async def find(self) -> set[str]:
        """Every "host:port" that is named now."""
        for name in self._found:
            self._found[name] = await self._resolve(name) if name.startswith(DNS) else {name}
        return set().union(*self._found.values())

    async def _resolve(self, name: str) -> set[str]:
        host, _, port = name.removeprefix(DNS).rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            logger.warning("%s: %s", name, error)
            return self._found[name]
        return {joined(str(info[4][0]), int(port)) for info in infos}
