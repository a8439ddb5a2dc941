"""Setting of the API keys that clients must bring."""

from pathlib import Path

from quire.engine.config import EngineConfig


class ApiKeyFile(EngineConfig):
    """Of a frontend, and of what starts one."""

    api_keys: Path | None = None
    """TOML file with a table for each tenant, as `quire keys new` prints one: clients must bring a key of it. It is
    read again when it changes. Default: everybody is answered."""
