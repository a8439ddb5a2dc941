"""Settings of a process: one definition gives flags, environment variables and a file, in that order."""

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliPositionalArg,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from quire.engine.api.errors import StartupError
from quire.engine.config import mistakes
from quire.protos.address import OptionalAddress
from quire.protos.channel import DEFAULT_KEEPALIVE, MIN_KEEPALIVE_SECONDS, Keepalive
from quire.protos.credentials import Credentials, read_tokens
from quire.services.common.certificates import CertificateFiles, ServerCertificates
from quire.services.common.channel import DEFAULT_STALL_SECONDS, Connector
from quire.services.common.logs import LogFormat
from quire.services.common.security import ServerSecurity

# Types, as the library spells them, in the help text.
_WORDS: Final = MappingProxyType(
    {
        "str": "TEXT",
        "int": "INTEGER",
        "float": "NUMBER",
        "Path": "PATH",
        "tuple[str,...]": "TEXT",
        "tuple[int,...]": "INTEGER",
        "dict[int,float]": "JSON",
        "list[str]": "TEXT",
        "list[int]": "INTEGER",
        "list[float]": "NUMBER",
    }
)
# Defaults that say nothing; the setting's own text says what is done without it.
# What marks a setting that has no flag.
_POSITIONAL: Final = get_args(CliPositionalArg)[-1]
_NO_DEFAULT: Final = re.compile(r" *\(default(: (None|null|\(\)|\[\])?| factory: \w+)\)$")
MIN_STALL_SECONDS: Final = 0.5
# Of a frontend.
MAX_WORKERS: Final = 64
SettingsT = TypeVar("SettingsT", bound=BaseSettings)
CollectorUrl = Annotated[str, StringConstraints(pattern="^https?://.")]


class ProcessSettings(BaseSettings):
    """Settings of every command that starts a process."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        env_nested_delimiter="__",
    )

    config: Path | None = None
    """TOML file with any of these settings; flags and environment variables win over it."""

    trace_dir: Path | None = None
    """Folder for a timeline of every step, one file per process, in Chrome's trace format; default: none is kept."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to log."""

    log_format: LogFormat = "text"
    """Lines for people, or one JSON object a line for machines."""

    otlp_endpoint: CollectorUrl | None = None
    """URL of the OpenTelemetry collector that gets spans, such as http://127.0.0.1:4317; default:
    nothing is traced."""

    otlp_protocol: Literal["grpc", "http/protobuf"] = "grpc"
    """How the collector is spoken to; its port is usually 4317 for grpc, and 4318 for http/protobuf."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before these; what the file says is given to the initializer and comes last."""
        return env_settings, init_settings


class ServiceSettings(ProcessSettings):
    """Settings of every service."""

    keepalive_seconds: float = Field(DEFAULT_KEEPALIVE.seconds, ge=MIN_KEEPALIVE_SECONDS, le=3600)
    """How long another service or a client may be silent, while a call is open, before it is pinged."""

    keepalive_timeout_seconds: float = Field(DEFAULT_KEEPALIVE.timeout_seconds, gt=0, le=3600)
    """How long it may take to answer the ping before its connection ends. Both together are the longest time until a
    hang is noticed."""

    stall_seconds: float = Field(DEFAULT_STALL_SECONDS, ge=MIN_STALL_SECONDS, le=3600)
    """How long this process may make no progress before it ends itself with exit code 70: its event loop, and a step
    beyond the time that steps of its size take. Another service may leave questions unanswered for as long before it is
    given up."""

    tls_cert: Path | None = None
    """PEM file with the certificate chain that this service shows to other services, and they to it: with it, its key
    and an authority, services speak TLS with each other and let in nobody else."""

    tls_key: Path | None = None
    """PEM file with the private key of the certificate, without a passphrase."""

    tls_ca: Path | None = Field(None, validate_default=True)
    """PEM file with the authorities that other services' certificates must come from."""

    tls_name: str = ""
    """Name that other services' certificates must have; default: the host of their address."""

    service_token_file: Path | None = None
    """File with the token that services bring to each other, for networks where TLS ends elsewhere. Of several lines
    the first is sent and all are accepted."""

    reflection: bool = True
    """Tell this service's protocols to whoever asks (gRPC reflection)."""

    @field_validator("tls_ca")
    @classmethod
    def _is_whole_tls(cls, authority: Path | None, others: ValidationInfo) -> Path | None:
        given = [others.data.get("tls_cert"), others.data.get("tls_key"), authority]
        if any(given) and not all(given):
            raise ValueError("must be set together with --tls-cert and --tls-key, as these with it")
        return authority

    @property
    def connector(self) -> Connector:
        """How this service reaches other services; raises `StartupError` if a file cannot be read."""
        token = next(iter(read_tokens(self.service_token_file)), "")
        credentials = Credentials(
            self.tls_ca is not None, self.tls_ca, self.tls_cert, self.tls_key, self.tls_name, token
        )
        if credentials.is_tls:
            credentials.load()
        return Connector(self.keepalive, credentials, self.stall_seconds)

    @property
    def security(self) -> ServerSecurity:
        """Whom this service lets in if only services may come; raises `StartupError` if a file cannot be used."""
        certificates = None
        if self.tls_cert is not None and self.tls_key is not None:
            certificates = ServerCertificates(CertificateFiles(self.tls_cert, self.tls_key, self.tls_ca))
        return ServerSecurity(certificates, read_tokens(self.service_token_file), self.reflection)

    @property
    def keepalive(self) -> Keepalive:
        return Keepalive(self.keepalive_seconds, self.keepalive_timeout_seconds)


class MeasuredSettings(ServiceSettings):
    """Settings of the services that have no HTTP port for their metrics."""

    metrics_listen: OptionalAddress = ""
    """host:port of /metrics for Prometheus; port 0 chooses a free one, "" leaves it out and measures nothing."""


def parse(settings: type[SettingsT], prog: str, argv: Sequence[str]) -> SettingsT:
    """Settings from a command line; on a mistake prints what is wrong and exits with 2, as argparse does."""
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings, cli_prog_name=prog, add_argument_method=_add_argument, cli_exit_on_error=False
    )
    try:
        from_file = _read_file(argv)
        return CliApp.run(settings, cli_args=list(argv), cli_settings_source=source, **from_file)
    except ValidationError as error:
        problems = [f"{_place(settings, mistake.location)}: {mistake.reason}" for mistake in mistakes(error)]
    except (SettingsError, StartupError) as error:
        problems = [str(error).removeprefix("error parsing CLI: ")]
    for problem in problems:
        print(f"{prog}: error: {problem}", file=sys.stderr)
    print(f"{prog} --help lists the settings", file=sys.stderr)
    raise SystemExit(2)


def to_flags(values: Mapping[str, object]) -> list[str]:
    """Command-line flags that set these fields."""
    flags = []
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            value = ",".join(value)
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        elif value is not None:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


def _read_file(argv: Sequence[str]) -> dict[str, Any]:
    path = next((value for flag, value in pairwise(argv) if flag == "--config"), None)
    path = path or next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), None)
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise StartupError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"--config {path}: must be TOML: {error}") from error


def _place(settings: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    """A setting as the help calls it: --flag, or ARGUMENT."""
    # The numbers count the values of a flag that takes several.
    names = [part for part in location if isinstance(part, str)]
    field = settings.model_fields.get(names[0]) if names else None
    if field is not None and _POSITIONAL in field.metadata:
        return names[0].upper()
    return "--" + ".".join(name.replace("_", "-") for name in names)


def _add_argument(parser: Any, *flags: str, **options: Any) -> None:
    """Adds an argument in a user's words, not in Python's."""
    if metavar := options.get("metavar"):
        options["metavar"] = _WORDS.get(metavar, metavar)
    if text := options.get("help"):
        options["help"] = _NO_DEFAULT.sub("", text)
    parser.add_argument(*flags, **options)
