"""A process that tries grammars: `python -m quire.engine.grammar.trial FD`.

Compiling cannot be interrupted, and what it needs of time, memory and stack shows only when it runs. So a grammar is
compiled here first, where the kernel's limits end it. One that passes costs the executor as much again, and no more.

The socket FD carries JSON, a message each: a vocabulary, answered by {}; then structured outputs, each answered by {},
or by {"error": what is wrong}.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar.library import GrammarLibrary
from quire.engine.grammar.vocabulary import Vocabulary

_STDERR: Final = 2
_NO_MEMORY: Final = "std::bad_alloc"
# What the library writes around a message: a time, the place in its source, and what it has checked.
_AROUND: Final = re.compile(r"^\[[\d:]+\] \S+?:\d+: (Warning: |Check failed: \(.*\) is \w+: )?", re.MULTILINE)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    setting = json.loads(connection.recv_bytes())
    tokens = tuple(text.encode("latin-1") for text in setting["tokens"])
    compiler = GrammarLibrary(Vocabulary(tokens, tuple(setting["end_tokens"])))
    _limit(resource.RLIMIT_DATA, _data_bytes() + setting["max_bytes"])
    _limit(resource.RLIMIT_CORE, 0)
    connection.send_bytes(b"{}")
    while True:
        try:
            structure = StructuredOutput(**json.loads(connection.recv_bytes()))
        except EOFError:
            return
        _limit(resource.RLIMIT_CPU, int(_cpu_seconds()) + 1 + setting["max_seconds"])
        error = _mistake(compiler, structure)
        connection.send_bytes(json.dumps({"error": error} if error else {}).encode())


def _mistake(compiler: GrammarLibrary, structure: StructuredOutput) -> str | None:
    """Why the executor cannot have it; None if it can."""
    try:
        with _warnings() as warnings:
            can_match = compiler.can_match(compiler.compile(structure))
    except (MemoryError, RuntimeError, ValueError) as error:
        if isinstance(error, MemoryError) or str(error) == _NO_MEMORY:
            return "it needs too much memory to compile"
        return _AROUND.sub("", str(error)).strip()
    # What the library only warns of, it leaves out of the grammar.
    if warnings:
        return _AROUND.sub("", warnings[0])
    return None if can_match else "no text matches it"


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is written to stderr meanwhile, line by line, once it is over."""
    lines: list[str] = []
    kept, file = os.dup(_STDERR), os.memfd_create("warnings")
    os.dup2(file, _STDERR)
    try:
        yield lines
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        with open(file, "rb", closefd=True) as written:
            written.seek(0)
            lines.extend(written.read().decode(errors="replace").splitlines())


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmData"].split()[0]) * 1024


if __name__ == "__main__":
    main()
