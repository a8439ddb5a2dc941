"""Work that is given up when its client leaves: the server tells it only to those who ask."""

from starlette.requests import Request
from starlette.responses import Response


async def leave(request: Request, error: Exception) -> Response:
    """Starlette's handler for a client that has left; nobody reads this."""
    return Response(status_code=499)
