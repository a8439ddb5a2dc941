"""How a client connects: what it receives, and how it connects again."""

from typing import Final

# Long prompts in ids, block tables of full pools and answers with many log-probabilities are a few megabytes at most.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
MESSAGE_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
CHANNEL_OPTIONS: Final = (
    *MESSAGE_OPTIONS,
    # Within a second, however long the server was away: by default gRPC waits longer each time, up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Channels to one address would share a connection and its wait.
    ("grpc.use_local_subchannel_pool", 1),
)
