"""Tokens that stand for bytes, in the two spellings that vocabularies have."""

import re
from collections.abc import Iterator

# The library reads the two digits as Rust does, which allows a sign in front.
_BYTE_TOKEN = re.compile(r"<0x([+0-9A-Fa-f][0-9A-Fa-f])>")


def byte_of(token: str) -> int | None:
    """The byte that it stands for, if it is one of a character that the vocabulary lacks, such as "<0xE4>"."""
    found = _BYTE_TOKEN.fullmatch(token)
    return int(found[1], 16) if found else None


def _byte_alphabet() -> Iterator[tuple[str, int]]:
    """GPT-2's spelling of bytes: printable Latin-1 is itself, the rest is U+0100 and on, in order."""
    shifted = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
            yield chr(byte), byte
        else:
            yield chr(shifted), byte
            shifted += 1


BYTE_LEVEL = dict(_byte_alphabet())
