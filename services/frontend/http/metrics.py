"""GET /metrics, and what it says of HTTP itself."""

from collections.abc import Callable, Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.services.common.metrics.meter import Meter
from quire.services.frontend import metrics
from quire.services.frontend.http.errors import REASON
from quire.services.frontend.workers_metrics import WorkersMetrics

MEDIA_TYPE: Final = "text/plain; version=0.0.4"
OTHER: Final = "other"
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST"})
# What should not happen, which has no answer of its own.
_FAULT: Final = ("INTERNAL", "request_error")


class Metrics:
    """The route."""

    def __init__(self, workers: WorkersMetrics) -> None:
        self._workers = workers

    async def get(self, request: Request) -> Response:
        """GET /metrics: of all workers of this frontend."""
        return Response(await self._workers.text(), media_type=MEDIA_TYPE)


class CountRequests:
    """ASGI middleware: counts answers by route and status, when they begin.

    Args:
        routes: of the application.
    """

    def __init__(self, app: ASGIApp, meter: Meter, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._meter = meter
        known = [route for route in routes if isinstance(route, Route)]
        self._paths = {route.path for route in known}
        self._by_endpoint: dict[Callable[..., object], str] = {route.endpoint: route.path for route in known}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._count(scope, message["status"], scope.get(REASON))
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception:
            if not has_begun:
                self._count(scope, 500, _FAULT)
            raise

    def _count(self, scope: Scope, status: int, reason: tuple[str, str] | None) -> None:
        method, path = scope["method"], scope["path"]
        if path not in self._paths:
            path = self._by_endpoint.get(scope.get("endpoint", _nothing), OTHER)
        if method not in _METHODS:
            method = OTHER
        self._meter.value(metrics.HTTP_REQUESTS, method, path, str(status)).value += 1
        if method == "POST" and reason is not None:
            self._meter.value(metrics.REFUSALS, *reason).value += 1


def _nothing() -> None:
    """No route's endpoint."""
