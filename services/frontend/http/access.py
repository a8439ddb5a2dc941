"""Who may call the HTTP API, and by which names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from quire.services.frontend.http.allowed_hosts import ANY, AllowedHosts
from quire.services.frontend.http.api_key_check import ApiKeyCheck
from quire.services.frontend.http.request_ids import HEADER, RequestIds
from quire.services.frontend.tenants.api_keys import ApiKeys


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """The default is everybody, but no web page of another origin.

    Attributes:
        cors_origins: of web pages that may call it; "*": any.
        allowed_hosts: names that requests may give it; "*": any.
        keys: of which each request must bring one; None: it need not.
    """

    cors_origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = (ANY,)
    keys: ApiKeys | None = None

    def middleware(self) -> list[Middleware]:
        """The outermost first. A request has its id when its key is looked at."""
        found = []
        if ANY not in self.allowed_hosts:
            found.append(Middleware(AllowedHosts, self.allowed_hosts))
        if self.cors_origins:
            found.append(
                Middleware(
                    CORSMiddleware,
                    allow_origins=self.cors_origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                    expose_headers=[HEADER],
                )
            )
        found.append(Middleware(RequestIds))
        if self.keys is not None:
            found.append(Middleware(ApiKeyCheck, self.keys))
        return found


EVERYBODY: Final = HttpAccess()
