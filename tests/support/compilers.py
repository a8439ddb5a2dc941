"""Compilers that do as they are told."""

import stat
from pathlib import Path

MAKE_OUTPUT = 'while [ "$1" != -o ]; do [ "$1" ] || exit 0; shift; done; : > "$2"'
"""Shell commands: an empty file where the compiler's output goes."""


def write_compiler(folder: Path, body: str) -> str:
    """A compiler that runs `body`, shell commands, and then makes an empty file; returns its path."""
    compiler = folder / "c++"
    compiler.write_text(f"#!/bin/sh\n{body}\n{MAKE_OUTPUT}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    return str(compiler)
