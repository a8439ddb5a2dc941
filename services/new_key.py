"""`quire keys new`: API keys for the tenants of a frontend."""

import hashlib
import secrets
import sys
from typing import Final

from pydantic_settings import CliPositionalArg, SettingsConfigDict

from quire.services.common.settings import ProcessSettings
from quire.services.frontend.tenants.rules import TenantName

# Finds keys that got into a repository or a log.
PREFIX: Final = "quire-"
_RANDOM_BYTES: Final = 32


class Settings(ProcessSettings):
    """Make an API key: the table for the file of `--api-keys` on standard output, the key on standard error. Nothing
    keeps the key."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_KEYS_")

    name: CliPositionalArg[TenantName]
    """The tenant's name: letters, digits, - and _."""


def run(settings: Settings) -> int:
    """Returns the exit code."""
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    print(f"API key of {settings.name}, which is not shown again:\n\n    {key}\n", file=sys.stderr)
    print(table(settings.name, key))
    return 0


def table(name: str, key: str) -> str:
    """What a file of API keys says of a tenant that has this key alone."""
    return f'[{name}]\nsha256 = ["{hashlib.sha256(key.encode()).hexdigest()}"]\n'
