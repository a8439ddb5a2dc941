"""How a client connects: what it receives, when it gives a silent peer up, and how it connects again."""

import json
from dataclasses import dataclass
from typing import Final, TypeAlias

# gRPC's options of a channel: arguments of its core.
ChannelOptions: TypeAlias = tuple[tuple[str, int | str], ...]

# Long prompts in ids, block tables of full pools and answers with many log-probabilities are a few megabytes at most.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
# Of one request, if the frontend is not told otherwise.
MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
MESSAGE_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
# Of an answer about health: why the service is NOT_SERVING.
REASON_METADATA: Final = "quire-reason"
# Servers cut off whoever pings more often.
MIN_KEEPALIVE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """When the connection to a peer that hangs or is cut off ends: at most `seconds` + `timeout_seconds` later.

    Attributes:
        seconds: silence after which the peer is pinged while a call is open.
        timeout_seconds: how long the peer may take to answer the ping.
    """

    seconds: float = 5.0
    timeout_seconds: float = 4.0

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """The gRPC options of a channel or of a server."""
        timeout_ms = round(1000 * self.timeout_seconds)
        return (
            ("grpc.keepalive_time_ms", round(1000 * self.seconds)),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            # Without this limit a ping may take a minute, whatever the option above says.
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.http2.max_pings_without_data", 0),
        )


DEFAULT_KEEPALIVE: Final = Keepalive()


def channel_options(keepalive: Keepalive) -> tuple[tuple[str, int], ...]:
    """The gRPC options of a channel to one of our services."""
    return (
        *MESSAGE_OPTIONS,
        *keepalive.options,
        # Within a second, however long the server was away: by default gRPC waits longer each time, up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Channels to one address would share a connection and its wait.
        ("grpc.use_local_subchannel_pool", 1),
    )


CHANNEL_OPTIONS: Final = channel_options(DEFAULT_KEEPALIVE)

# gRPC makes a call again of which nothing has come. To compute an answer changes nothing, so that is safe. A call that
# reaches a gRPC server while it stops ends with CANCELLED, which is not what the caller's own cancellation does.
_RETRY_POLICY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
SERVICE_CONFIG: Final = json.dumps(
    {"methodConfig": [{"name": [{"service": "quire.v1.InferenceService"}], "retryPolicy": _RETRY_POLICY}]}
)
RETRYING_OPTIONS: Final[ChannelOptions] = (
    *CHANNEL_OPTIONS,
    ("grpc.service_config", SERVICE_CONFIG),
    # What is longer could not be sent again.
    ("grpc.per_rpc_retry_buffer_size", MAX_REQUEST_BYTES),
)
