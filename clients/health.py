"""`quire health`: whether a service can work now, by the gRPC health protocol; for people, containers and probes."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from quire.clients.connection_settings import ConnectionSettings
from quire.protos.address import Address
from quire.protos.channel import CHANNEL_OPTIONS, REASON_METADATA
from quire.protos.credentials import open_sync_channel


class Settings(ConnectionSettings):
    """Asks a service whether it can work now; ends with 0 if it says SERVING, else with 1."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_HEALTH_")

    address: CliPositionalArg[Address]
    """Host and port of a gRPC service."""

    service: str = ""
    """Name of one gRPC service there; live: whether the process answers; default: the server as a whole."""

    timeout: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Seconds that the answer may take."""


def run(settings: Settings) -> int:
    """Prints the status and the reason for it; returns the exit code: 0 if it is SERVING, else 1."""
    request = health_pb2.HealthCheckRequest(service=settings.service)
    try:
        with open_sync_channel(settings.address, CHANNEL_OPTIONS, settings.credentials()) as channel:
            answer, call = health_pb2_grpc.HealthStub(channel).Check.with_call(request, timeout=settings.timeout)
    except grpc.RpcError as error:
        print(f"quire health: error: {settings.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    reason = dict(call.trailing_metadata() or ()).get(REASON_METADATA)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(f"{status}: {reason}" if reason else status)
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
