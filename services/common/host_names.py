"""Setting of the names that the HTTP API answers to."""

from typing import Final

from quire.engine.config import EngineConfig
from quire.services.common.address import is_loopback

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")


class HostNames(EngineConfig):
    """Of a frontend, and of what starts one."""

    http_allowed_hosts: tuple[str, ...] = ()
    """Names in an HTTP request's Host that are answered, *.example.org for all below one; default: localhost,
    127.0.0.1 and [::1] if the HTTP API listens on loopback, so that no web page reaches it by another name, and
    otherwise all."""

    def allowed_hosts(self, listen: str) -> tuple[str, ...]:
        """For an HTTP server at "host:port"."""
        if self.http_allowed_hosts:
            return self.http_allowed_hosts
        return LOOPBACK_HOSTS if is_loopback(listen) else ("*",)
