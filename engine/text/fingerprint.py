"""Fingerprint of a tokenizer: frontends compare theirs with that of the executors' model."""

import hashlib
from pathlib import Path
from typing import Final

# What `Tokenizer.load` reads beside the model's own configuration.
_FILES: Final = ("tokenizer.json", "tokenizer_config.json")


def tokenizer_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over the tokenizer's files of a model folder, wherever it lies; "" if it has no tokenizer."""
    if not (folder / _FILES[0]).is_file():
        return ""
    digest = hashlib.sha256()
    for name in _FILES:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
