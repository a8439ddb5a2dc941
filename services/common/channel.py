"""Channels between services."""

from dataclasses import dataclass
from typing import Final

import grpc

from quire.engine.api.errors import StartupError, Unavailable
from quire.protos.channel import DEFAULT_KEEPALIVE, Keepalive, channel_options
from quire.protos.credentials import PLAIN, Credentials, open_aio_channel


@dataclass(frozen=True, slots=True)
class Connector:
    """How one service reaches others.

    Attributes:
        keepalive: when a service that hangs is given up.
        credentials: what it is shown, and how it is known.
    """

    keepalive: Keepalive = DEFAULT_KEEPALIVE
    credentials: Credentials = PLAIN

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
