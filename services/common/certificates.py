"""A server's certificate, which may be replaced while it runs. Knows files and handshakes, and nothing of services."""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import grpc

from quire.engine.api.errors import StartupError
from quire.services.common.file_stamp import file_stamp

logger = logging.getLogger(__name__)

_Configuration: TypeAlias = grpc.ServerCertificateConfiguration
_Stamp: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a server finds what it shows, all in PEM.

    Attributes:
        certificate: its chain, its own certificate first.
        key: the private key, without a passphrase.
        client_authority: a client must have a certificate of one of these authorities; None: none is asked for.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


class ServerCertificates:
    """Every handshake gets what the files hold then; while they do not fit together, what they held before.

    Raises:
        StartupError: the files cannot be read, or do not fit together.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        # gRPC asks on threads of its own.
        self._lock = threading.Lock()
        self._complained_of: _Stamp = ()
        try:
            self._stamp, self._context, self._configuration = self._load()
        except (OSError, ValueError) as error:
            raise StartupError(f"the server's certificate cannot be used: {error}") from error
        # What gRPC has.
        self._given = self._configuration

    def context(self) -> ssl.SSLContext:
        """For a connection to a server of HTTP/1.1."""
        self._refresh()
        return self._context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a port of a gRPC server."""
        # The stubs do not know that None means "as before".
        following = cast("Callable[[], _Configuration]", self._next_configuration)
        has_authority = self._files.client_authority is not None
        return grpc.dynamic_ssl_server_credentials(self._configuration, following, has_authority)

    def _next_configuration(self) -> _Configuration | None:
        """None: gRPC has it already."""
        self._refresh()
        with self._lock:
            if self._configuration is self._given:
                return None
            self._given = self._configuration
            return self._given

    def _refresh(self) -> None:
        with self._lock:
            stamp = self._stamps()
            if stamp in (self._stamp, self._complained_of):
                return
            try:
                self._stamp, self._context, self._configuration = self._load()
            except (OSError, ValueError) as error:
                self._complained_of = stamp
                logger.error("the new certificate is not used, the one before stays: %s", error)
            else:
                logger.info("certificate %s: read again", self._files.certificate)

    def _stamps(self) -> _Stamp:
        """Changes with each file, also when a link is turned to another."""
        found = [file_stamp(path) for path in self._paths]
        return tuple(number for each in found for number in each)

    @property
    def _paths(self) -> tuple[Path, ...]:
        files = self._files
        return tuple(path for path in (files.certificate, files.key, files.client_authority) if path is not None)

    def _load(self) -> tuple[_Stamp, ssl.SSLContext, _Configuration]:
        """The stamp comes first: what changes while it is read is read once more.

        Raises:
            OSError: a file cannot be read, or is no PEM; the key is not the certificate's.
        """
        stamp, files = self._stamps(), self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(files.certificate, files.key, _no_passphrase)
        except ssl.SSLError as error:
            raise ValueError(f"{files.certificate} and {files.key} do not fit together: {error.reason}") from error
        authority = None
        if files.client_authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(files.client_authority)
            except ssl.SSLError as error:
                raise ValueError(f"{files.client_authority} holds no certificate: {error.reason}") from error
            authority = files.client_authority.read_bytes()
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        return stamp, context, grpc.ssl_server_certificate_configuration([pair], authority)


def _no_passphrase() -> str:
    """OpenSSL would ask the terminal for it."""
    raise ValueError("the private key must not need a passphrase")
