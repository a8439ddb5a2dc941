"""Settings of the ports that clients reach: their certificate, and clients' own."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from quire.engine.config import EngineConfig
from quire.services.common.certificates import CertificateFiles, ServerCertificates


class PublicPorts(EngineConfig):
    """Of a frontend."""

    public_tls_cert: Path | None = None
    """PEM file with the certificate chain that clients are shown; default: clients are answered in plain text."""

    public_tls_key: Path | None = Field(None, validate_default=True)
    """PEM file with the private key of that certificate, without a passphrase."""

    public_tls_ca: Path | None = Field(None, validate_default=True)
    """PEM file with authorities: clients must have a certificate of one of them."""

    @field_validator("public_tls_key")
    @classmethod
    def _is_pair(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        if (key is None) != (others.data.get("public_tls_cert") is None):
            raise ValueError("must be set together with --public-tls-cert")
        return key

    @field_validator("public_tls_ca")
    @classmethod
    def _has_certificate(cls, authority: Path | None, others: ValidationInfo) -> Path | None:
        if authority is not None and others.data.get("public_tls_cert") is None:
            raise ValueError("must be set together with --public-tls-cert")
        return authority

    @property
    def public_certificates(self) -> ServerCertificates | None:
        """None: plain text. Raises `StartupError` if a file cannot be used."""
        if self.public_tls_cert is None or self.public_tls_key is None:
            return None
        return ServerCertificates(CertificateFiles(self.public_tls_cert, self.public_tls_key, self.public_tls_ca))
