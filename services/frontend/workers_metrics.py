"""The metrics of all workers of a frontend in one answer: whichever is asked, the answer is the same."""

from collections.abc import Iterable
from typing import Any

import grpc

from quire.engine.api.errors import Forbidden
from quire.internal.v1 import worker_pb2 as pb
from quire.internal.v1 import worker_pb2_grpc
from quire.services.common.metrics.meter import Meter
from quire.services.frontend.siblings import Siblings

_WORKER = 'worker="'


class WorkersMetrics(worker_pb2_grpc.WorkerServiceServicer):
    """Those of this worker, and of its siblings that answer.

    One that is started again counts from 0. Every worker has a label of its own, so that Prometheus sees that.

    Attributes:
        meter: of this one.
    """

    def __init__(self, meter: Meter, siblings: Siblings) -> None:
        self.meter = meter
        self._siblings = siblings

    async def text(self) -> str:
        """Of all, in Prometheus' text format."""
        return joined(self.meter.text(), await self._siblings.metrics())

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetMetricsResponse:
        """Of this one, for a sibling, which comes over a Unix socket.

        Raises:
            Forbidden: another asks.
        """
        if not context.peer().startswith("unix:"):
            raise Forbidden("only workers of this frontend may ask each other")
        return pb.GetMetricsResponse(text=self.meter.text())


def joined(own: str, others: Iterable[str]) -> str:
    """Texts of the same metrics as one: what workers share is in the first one, each one's own is in all."""
    families: dict[str, list[str]] = {}
    _add(families, own.splitlines())
    for text in others:
        _add(families, (line for line in text.splitlines() if line.startswith("# HELP ") or _WORKER in line))
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _add(families: dict[str, list[str]], lines: Iterable[str]) -> None:
    """Adds each line behind those of its family."""
    family: list[str] = []
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            is_new = name not in families
            family = families.setdefault(name, [])
            if is_new:
                family.append(line)
        else:
            family.append(line)
