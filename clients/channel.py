"""How a channel connects again."""

from typing import Final

# Within a second, however long the server was away: by default gRPC waits longer each time, up to two minutes.
RECONNECT_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Channels to one address would share a connection and its wait.
    ("grpc.use_local_subchannel_pool", 1),
)
