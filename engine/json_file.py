"""JSON files of a model folder, which were written by anybody."""

import json
from pathlib import Path
from typing import Any

from quire.engine.api.errors import StartupError


def read_json_object(path: Path, *, required: bool = True) -> dict[str, Any]:
    """The object that a file holds; {} if there is no such file and it is not required.

    Raises:
        StartupError: it is no readable file, or it holds anything else; the message begins with its name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        # A link that leads nowhere is an incomplete download, not an absent file.
        if not required and not path.is_symlink():
            return {}
        raise StartupError(f"{path.name} is not there") from error
    except OSError as error:
        raise StartupError(f"{path.name} cannot be read: {error.strerror}") from error
    # Not UTF-8 and not JSON are ValueErrors; objects may lie in each other too deeply.
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path.name} is not valid JSON in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise StartupError(f"{path.name} must hold a JSON object, got {shortened(content)}")
    return content


def shortened(value: object, limit: int = 80) -> str:
    """A value as messages quote it, on one line and at most `limit` characters long.

    >>> shortened("a" * 100, 12)
    "'aaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
