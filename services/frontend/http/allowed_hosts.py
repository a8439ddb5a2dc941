"""Which names in Host are answered: a web page of another site can give its own name a loopback address."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.services.frontend.http.errors import INVALID, Refusal

ANY = "*"


class AllowedHosts:
    """ASGI middleware.

    Args:
        allowed: names in lower case; "*.example.org" stands for all below one, "*" for every name.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = tuple(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = _name(Headers(scope=scope).get("host", ""))
            if not any(_fits(host, allowed) for allowed in self._allowed):
                names = ", ".join(self._allowed)
                message = f"Host: must be one of {names}, got {host!r}; --http-allowed-hosts names others"
                await Refusal(421, message, INVALID, param="Host", code="host_not_allowed").response()(
                    scope, receive, send
                )
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """Without the port; an IPv6 address keeps its brackets."""
    host = host.lower()
    end = host.find("]") + 1 if host.startswith("[") else host.find(":")
    return host[:end] if end > 0 else host


def _fits(host: str, allowed: str) -> bool:
    return host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:]))
