"""Channels between services."""

import grpc

from quire.protos.channel import DEFAULT_KEEPALIVE, Keepalive, channel_options


def open_channel(address: str, keepalive: Keepalive = DEFAULT_KEEPALIVE) -> grpc.aio.Channel:
    """A channel to a service at "host:port"."""
    return grpc.aio.insecure_channel(address, options=channel_options(keepalive))
