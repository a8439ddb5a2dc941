"""Channels between services: they reconnect within a second, however long the peer was away."""

import grpc

from quire.services.common.server import CHANNEL_OPTIONS


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a service at "host:port"."""
    options = [
        *CHANNEL_OPTIONS,
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Channels to one address would share a connection and its backoff.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.insecure_channel(address, options=options)
