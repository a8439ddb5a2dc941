"""Names in Host that the HTTP API answers to."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from quire.services.common.host_names import HostNames
from quire.services.frontend.http.allowed_hosts import AllowedHosts


def status(host: str, *allowed: str) -> int:
    app = Starlette(
        routes=[Route("/", lambda _: PlainTextResponse("here"))], middleware=[Middleware(AllowedHosts, allowed)]
    )
    return int(TestClient(app).get("/", headers={"Host": host}).status_code)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "a.example.org"])
def test_answered(host: str) -> None:
    assert status(host, "localhost", "127.0.0.1", "[::1]", "*.example.org") == 200


@pytest.mark.parametrize("host", ["evil.test", "", "localhost.evil.test", "example.org", "xexample.org", "[::2]"])
def test_refused(host: str) -> None:
    assert status(host, "localhost", "127.0.0.1", "[::1]", "*.example.org") == 421


@pytest.mark.parametrize("listen", ["127.0.0.1:8000", "localhost:0", "[::1]:8000", "127.0.0.2:80"])
def test_loopback_answers_to_its_own_names(listen: str) -> None:
    assert HostNames().allowed_hosts(listen) == ("localhost", "127.0.0.1", "[::1]")


def test_what_is_set_counts() -> None:
    assert HostNames().allowed_hosts("0.0.0.0:8000") == ("*",)
    assert HostNames(http_allowed_hosts=("api.example.org",)).allowed_hosts("127.0.0.1:1") == ("api.example.org",)
