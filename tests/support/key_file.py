"""A file of API keys that tests change while frontends run."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def new_key(name: str) -> str:
    """The same for each name."""
    return f"quire-{hashlib.sha256(name.encode()).hexdigest()}"


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyFile:
    """A table for each tenant; `write` replaces the file in one step."""

    def __init__(self, path: Path, *names: str) -> None:
        self.path = path
        self.tables: dict[str, dict[str, Any]] = {name: {"sha256": key_hash(new_key(name))} for name in names}

    def write(self, text: str | None = None) -> None:
        """The tables, or another text."""
        if text is None:
            text = "".join(
                f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
                for name, table in self.tables.items()
            )
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)


def _toml(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else json.dumps(value)
