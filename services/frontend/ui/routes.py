"""The routes of the live page."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from quire.services.frontend.inference import Inference
from quire.services.frontend.ui.events import LiveEvents
from quire.services.frontend.ui.live_feed import LiveFeed

PAGE: Final = Path(__file__).parent / "page"
# Everything is this frontend's own, and nothing is in the page itself.
_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)


class _PageFiles(StaticFiles):
    """The page's files, which may load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def ui_routes(feed: LiveFeed, inference: Inference) -> list[BaseRoute]:
    """GET /ui/ and its files, and GET /ui/events."""

    async def page(request: Request) -> RedirectResponse:
        return RedirectResponse("ui/")

    async def events(request: Request) -> ASGIApp:
        return LiveEvents(feed.follow(), inference.draining)

    return [Route("/ui", page), Route("/ui/events", events), Mount("/ui", _PageFiles(directory=PAGE, html=True))]
