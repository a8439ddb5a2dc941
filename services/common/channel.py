"""Channels between services."""

import grpc

from quire.protos.channel import CHANNEL_OPTIONS
from quire.services.common.server import KEEPALIVE_OPTIONS


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a service at "host:port"."""
    return grpc.aio.insecure_channel(address, options=[*CHANNEL_OPTIONS, *KEEPALIVE_OPTIONS])
