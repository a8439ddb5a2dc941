"""How adapters may be called, and which one a request names."""

from collections.abc import Mapping
from typing import Final

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest
from quire.engine.validation import check_range

MAX_NAME: Final = 256
"""Characters of a name."""

MAX_PATH: Final = 4096
"""Characters of a path."""

MAX_DIGEST: Final = 64
"""Characters of a SHA-256 digest, in hexadecimal digits."""

# Names that a message lists.
_MAX_LISTED: Final = 10


def check_adapter_name(field: str, name: str) -> None:
    """Raises `InvalidRequest` for what no adapter may be called."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidRequest(field, name, f"must be 1 to {MAX_NAME} printable characters")


def check_adapter_path(field: str, path: str) -> None:
    """Raises `InvalidRequest` for what no adapter's folder may be called."""
    check_range(field, len(path), 1, MAX_PATH, "characters")


def find_adapter(field: str, name: str, adapters: Mapping[str, Adapter]) -> Adapter | None:
    """The adapter of a name; None for "".

    Raises:
        InvalidRequest: there is none.
    """
    if not name:
        return None
    if name not in adapters:
        names = sorted(adapters)
        more = ", …" if len(names) > _MAX_LISTED else ""
        listed = f"one of {', '.join(map(repr, names[:_MAX_LISTED]))}{more}" if names else "left out: none is loaded"
        raise InvalidRequest(field, name, f"must be {listed}")
    return adapters[name]
