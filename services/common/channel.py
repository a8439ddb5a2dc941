"""Channels between services."""

from dataclasses import dataclass
from typing import Final

import grpc

from quire.engine.api.errors import StartupError, Unavailable
from quire.protos.channel import DEFAULT_KEEPALIVE, Keepalive, channel_options
from quire.protos.credentials import PLAIN, Credentials, open_aio_channel

DEFAULT_STALL_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Connector:
    """How one service reaches others.

    Attributes:
        keepalive: when a connection is given up that the network has cut off.
        credentials: what a service is shown, and how it is known.
        stall_seconds: how long a service may leave questions unanswered before it is given up.
    """

    keepalive: Keepalive = DEFAULT_KEEPALIVE
    credentials: Credentials = PLAIN
    stall_seconds: float = DEFAULT_STALL_SECONDS

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call."""
        return self.credentials.metadata

    def open(self, address: str) -> grpc.aio.Channel:
        """A channel to a service at "host:port", with what the files of the credentials hold now.

        Raises:
            Unavailable: one of them cannot be read.
        """
        try:
            return open_aio_channel(address, channel_options(self.keepalive), self.credentials)
        except StartupError as error:
            raise Unavailable(str(error)) from error


DEFAULT_CONNECTOR: Final = Connector()


def open_channel(address: str, keepalive: Keepalive = DEFAULT_KEEPALIVE) -> grpc.aio.Channel:
    """A channel in plain text, to a service of this machine."""
    return Connector(keepalive).open(address)
