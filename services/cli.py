"""The command line: `quire COMMAND`. Each command's module is imported only when it is asked for."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from quire.engine.api.errors import QuireError
from quire.engine.api.version import __version__
from quire.engine.garbage import no_gc
from quire.services.common import logs
from quire.services.common.settings import parse
from quire.services.common.signals import ending_at_once
from quire.services.extras import check_extras


class Command(NamedTuple):
    """A module with `Settings` and `run(settings) -> int`, a line for `--help`, and the extras that it needs."""

    module: str
    summary: str
    extras: tuple[str, ...] = ()


_ALL = ("frontend", "scheduler", "executor")
COMMANDS = {
    "up": Command("quire.services.up.main", "start everything on this machine", _ALL),
    "rollout": Command("quire.services.up.rollout_command", "replace the services of a running `quire up`", _ALL),
    "demo": Command("quire.services.up.demo", "start everything, print a generated text, stop", _ALL),
    "generate": Command("quire.clients.generate", "stream a text from a running frontend"),
    "chat": Command("quire.clients.chat.command", "chat with a model in the terminal", ("chat",)),
    "bench serve": Command("quire.clients.bench.serve", "load a server, report latency and throughput"),
    "bench throughput": Command(
        "quire.clients.bench.throughput", "tokens per second of the engine in process", ("executor",)
    ),
    "bench latency": Command("quire.clients.bench.latency", "time of a batch in process", ("executor",)),
    "bench compare": Command("quire.clients.bench.compare", "ratios of two results"),
    "frontend": Command("quire.services.frontend.main", "start one frontend", ("frontend",)),
    "scheduler": Command("quire.services.scheduler.main", "start one scheduler", ("scheduler",)),
    "executor": Command("quire.services.executor.main", "start one executor", ("executor",)),
    "plan": Command("quire.services.plan.main", "what fits on a machine, and how fast it is", ("executor",)),
    "stats": Command("quire.clients.stats", "what waits, runs and is cached on every executor"),
    "health": Command("quire.clients.health", "whether a service can work now: exit code 0 or 1"),
    "top": Command("quire.clients.top.command", "executors, blocks, requests, rates and faults, live", ("top",)),
    "keys new": Command("quire.services.new_key", "make an API key for a tenant of a frontend"),
    "ledger": Command("quire.services.ledger", "audit or show the KV-block ledger", ("scheduler",)),
}


# What shells call the ends by SIGINT and SIGPIPE.
_INTERRUPTED = 130
_NO_READER = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 nobody reads."""
    try:
        try:
            return _dispatch(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:
            # What is left in the buffer would be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _NO_READER
        reason = error.strerror or str(error)
        print(f"quire: error: {f'{error.filename}: ' if error.filename else ''}{reason}", file=sys.stderr)
        return 1


def _dispatch(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    while words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words == ["--version"]:
        print(f"quire {__version__}")
        return 0
    name = next((name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()), None)
    if name is None:
        return _no_command(words)
    try:
        return _run(name, words[name.count(" ") + 1 :])
    except QuireError as error:
        print(f"quire {name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _no_command(words: Sequence[str]) -> int:
    """Lists the commands, all or those of a group, if that was asked for; says otherwise that there is none such."""
    group = f"{words[0]} " if words and any(name.startswith(f"{words[0]} ") for name in COMMANDS) else ""
    found = {name: command for name, command in COMMANDS.items() if name.startswith(group)}
    rest = words[1:] if group else words
    if not rest or rest[0] in ("-h", "--help"):
        lines = [f"  {name:<17} {command.summary}" for name, command in found.items()]
        lines += [] if group else [f"  {'help [COMMAND]':<17} this list, or a command's settings", "  --version"]
        print("\n".join([f"usage: quire {group}COMMAND [--help]", "", "commands:", *lines]))
        return 0
    print(f"quire: error: no command {group + rest[0]!r}; commands: {', '.join(found)}", file=sys.stderr)
    return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS[name]
    check_extras(command.extras)
    with ending_at_once(), no_gc():
        module = importlib.import_module(command.module)
    settings = parse(module.Settings, f"quire {name}", arguments)
    logs.configure(getattr(settings, "log_level", "warning"), getattr(settings, "log_format", "text"), name)
    code: int = module.run(settings)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
