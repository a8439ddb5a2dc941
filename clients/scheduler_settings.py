"""Settings of commands that ask a scheduler."""

from pathlib import Path

from quire.clients.connection_settings import ConnectionSettings
from quire.protos.address import Addresses
from quire.protos.credentials import Credentials, read_tokens


class SchedulerSettings(ConnectionSettings):
    """Where it is, and what it is shown."""

    scheduler: Addresses = "127.0.0.1:8002"
    """Host and port of the scheduler's gRPC service; of several, separated by commas, the one that leads answers."""

    service_token_file: Path | None = None
    """File with the token that the services share, if they do."""

    def scheduler_credentials(self) -> Credentials:
        """Raises `StartupError` if the file of the token cannot be read."""
        return self.credentials(next(iter(read_tokens(self.service_token_file)), ""))
