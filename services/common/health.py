"""grpc.health.v1: whether a service can work now, and why if it cannot."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from grpc_health.v1 import health, health_pb2

from quire.protos.channel import REASON_METADATA
from quire.services.common.notify import notify_ready

logger = logging.getLogger(__name__)

# The name to ask for before a service that hangs is started again: SERVING as long as the process answers, whatever it
# can do now.
LIVE: Final = "live"
# The reason of a service that lets what is open end, and then stops.
ENDS: Final = "it ends"


class Health:
    """Of a server; answers questions for it.

    Args:
        names: of its services.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = ("", *names)
        self._servicer = health.aio.HealthServicer()
        self._reason: str | None = None

    async def set(self, reason: str) -> None:
        """Why the server as a whole and each of its services is NOT_SERVING; "": they are SERVING."""
        if reason == self._reason:
            return
        self._reason = reason
        logger.info("%s", f"NOT_SERVING: {reason}" if reason else "SERVING")
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, status.NOT_SERVING if reason else status.SERVING)
        await self._servicer.set(LIVE, status.SERVING)
        if not reason:
            notify_ready()

    async def Check(self, request: Any, context: Any) -> Any:
        """The answer has the reason in its metadata."""
        if self._reason and request.service in self._names:
            # Metadata takes printable ASCII.
            context.set_trailing_metadata(((REASON_METADATA, ascii(self._reason)[1:-1]),))
        return await self._servicer.Check(request, context)

    async def List(self, request: Any, context: Any) -> Any:
        """The answers to all questions; a call that the library knows from version 1.85 on."""
        answer = health_pb2.HealthListResponse()
        for name in (*self._names, LIVE):
            question = health_pb2.HealthCheckRequest(service=name)
            answer.statuses[name].CopyFrom(await self._servicer.Check(question, context))
        return answer

    async def Watch(self, request: Any, context: Any) -> None:
        """Writes each change to the context."""
        await self._servicer.Watch(request, context)
