"""API keys in HTTP requests."""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.engine.api.errors import RequestError
from quire.services.frontend.http.errors import refusal
from quire.services.frontend.tenants.api_keys import CALLER, ApiKeys

# Probes bring no key.
_OPEN: Final = frozenset({"/health", "/ping", "/v2/health/live", "/v2/health/ready"})
# They tell of all tenants.
_OPERATORS: Final = ("/metrics", "/ui")


class ApiKeyCheck:
    """ASGI middleware: refuses whoever brings no key that is known; others are served as their tenants.

    Args:
        keys: of the frontend.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            try:
                caller = self._keys.caller(Headers(scope=scope).getlist("authorization"))
                if scope["path"].startswith(_OPERATORS):
                    caller.tenant().check_operator()
            except RequestError as error:
                await refusal(error).response()(scope, receive, send)
                return
            CALLER.set(caller)
        await self._app(scope, receive, send)
