"""Settings of commands that call a service over gRPC: how it is known, and what it is shown."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from quire.clients.settings import ClientSettings
from quire.protos.credentials import Credentials


class ConnectionSettings(ClientSettings):
    """Plain text, if no flag says otherwise."""

    tls: bool = False
    """Speak TLS; the flags below imply it."""

    tls_ca: Path | None = None
    """PEM file with the authorities that the server's certificate must come from; default: the system's."""

    tls_cert: Path | None = None
    """PEM file with the certificate chain that the server is shown; default: none."""

    tls_key: Path | None = Field(None, validate_default=True)
    """PEM file with the private key of that certificate."""

    tls_name: str = ""
    """Name that the server's certificate must have; default: the host of its address."""

    @field_validator("tls_key")
    @classmethod
    def _is_pair(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        if (key is None) != (others.data.get("tls_cert") is None):
            raise ValueError("must be set together with --tls-cert")
        return key

    def credentials(self, token: str = "") -> Credentials:
        """Of a channel whose calls bring this token."""
        is_tls = self.tls or self.tls_ca is not None or self.tls_cert is not None
        return Credentials(is_tls, self.tls_ca, self.tls_cert, self.tls_key, self.tls_name, token)
