"""How a client knows its server, and how it shows who it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from quire.engine.api.errors import StartupError
from quire.protos.channel import ChannelOptions


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a channel is opened with. The default is plain text and no key.

    Attributes:
        is_tls: the connection is encrypted and the server's certificate is verified.
        authority: file with the certificates of authorities that are trusted; None: the system's.
        certificate, key: files with the client's own certificate chain and private key, for servers that ask for one.
        server_name: the name that the server's certificate must have; "": the host of its address.
        token: sent with every call; "": none.
    """

    is_tls: bool = False
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    token: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """gRPC options of a channel, beside those of every channel."""
        if not self.is_tls or not self.server_name:
            return ()
        return (("grpc.ssl_target_name_override", self.server_name),)

    def load(self) -> grpc.ChannelCredentials:
        """Reads the files, so that a channel that is opened later has what is in them then.

        Raises:
            StartupError: one cannot be read.
        """
        return grpc.ssl_channel_credentials(
            _read("tls-ca", self.authority), _read("tls-key", self.key), _read("tls-cert", self.certificate)
        )


PLAIN: Final = Credentials()
MIN_TOKEN_CHARACTERS: Final = 16


def read_tokens(path: Path | None) -> tuple[str, ...]:
    """The lines of a file of tokens. The first is sent, all are accepted: so tokens can be replaced one by one.

    Raises:
        StartupError: it cannot be read, or holds what is no token.
    """
    if path is None:
        return ()
    try:
        tokens = tuple(path.read_text("ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--service-token-file {path}: {error}") from error
    if not tokens or any(len(token) < MIN_TOKEN_CHARACTERS or not token.isprintable() for token in tokens):
        limit = f"must hold one token a line, each of at least {MIN_TOKEN_CHARACTERS} printable characters"
        raise StartupError(f"--service-token-file {path}: {limit}")
    return tokens


def open_sync_channel(address: str, options: ChannelOptions, credentials: Credentials = PLAIN) -> grpc.Channel:
    """A channel to "host:port" for blocking code.

    Raises:
        StartupError: a file of the credentials cannot be read.
    """
    every: ChannelOptions = (*options, *credentials.options)
    if credentials.is_tls:
        return grpc.secure_channel(address, credentials.load(), options=every)
    return grpc.insecure_channel(address, options=every)


def open_aio_channel(address: str, options: ChannelOptions, credentials: Credentials = PLAIN) -> grpc.aio.Channel:
    """A channel to "host:port" for asyncio.

    Raises:
        StartupError: a file of the credentials cannot be read.
    """
    every: ChannelOptions = (*options, *credentials.options)
    if credentials.is_tls:
        return grpc.aio.secure_channel(address, credentials.load(), options=every)
    return grpc.aio.insecure_channel(address, options=every)


def _read(flag: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"--{flag} {path}: {error.strerror}") from error
