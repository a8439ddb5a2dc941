#!/usr/bin/env python3
"""Writes docs/reference/settings.md: every setting of every command, from the classes that define them.

python tools/settings_reference.py FILE
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, CliPositionalArg

from quire.engine.resources.ledger.connection import RedisUrl
from quire.protos.address import Address, Addresses, OptionalAddress
from quire.services.cli import COMMANDS
from quire.services.common.settings import CollectorUrl

INTRODUCTION = """\
# Settings

<!-- Written by `make reference` from the settings' classes; edit these. -->

A setting has a flag and an environment variable. Commands that start a process also take `--config FILE`, a TOML file
with any of their settings. A flag wins over an environment variable, which wins over the file. An unknown setting or a
value out of range ends the command with status 2 and a message that names the setting, the value and what is allowed.

A flag that is yes or no takes no value: `--name` is yes, `--no-name` is no. The environment and the file say `true` or
`false`. In the file a setting has its name with underscores, and a group is a table:

```toml
frontend_port = 8001

[executor]
num_blocks = 4096
```

| command | what it does |
|---|---|
"""
WORDS = {str: "text", int: "whole number", float: "number", bool: "yes or no", Path: "path", dict: "JSON object"}
PLACES = {
    Address: "host:port",
    OptionalAddress: "host:port or nothing",
    Addresses: "host:port, comma-separated",
    CollectorUrl: "HTTP URL",
    RedisUrl: "URL",
}
POSITIONAL = get_args(CliPositionalArg)[-1]
BOUNDS = {
    Ge: ("ge", "from {}"),
    Gt: ("gt", "above {}"),
    Le: ("le", "at most {}"),
    Lt: ("lt", "below {}"),
    MinLen: ("min_length", "at least {} long"),
    MaxLen: ("max_length", "at most {} long"),
}


def settings_page() -> str:
    """The whole page."""
    rows, sections = [], []
    for command, (module, summary, _) in COMMANDS.items():
        settings = importlib.import_module(module).Settings
        rows.append(f"| [`quire {command}`](#quire-{command.replace(' ', '-')}) | {summary} |")
        heading = ["setting", "type, range", "default", "meaning"]
        table = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|", *setting_rows(settings)]
        sections.append("\n".join([f"\n## quire {command}\n", " ".join((settings.__doc__ or "").split()), "", *table]))
    return INTRODUCTION + "\n".join([*rows, *sections]) + "\n"


def setting_rows(settings: type[BaseSettings]) -> Iterator[str]:
    """A row for each setting, those of groups among them: flag and variable, type, default, meaning."""
    hints = get_type_hints(settings, include_extras=True)
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        hint = hints[name]
        if POSITIONAL in field.metadata:
            yield _row(f"`{name.upper()}`", hint, field)
        elif isinstance(hint, type) and issubclass(hint, BaseModel):
            inner_hints = get_type_hints(hint, include_extras=True)
            for inner, inner_field in hint.model_fields.items():
                flag, variable = f"{name}.{_kebab(inner)}", f"{prefix}{name}__{inner}"
                yield _row(_names(flag, variable), inner_hints[inner], inner_field)
        else:
            is_whole = field.alias is not None and settings.model_config.get("env_prefix_target") != "all"
            public = field.alias or name
            yield _row(_names(_kebab(public), public if is_whole else prefix + public), hint, field)


def _names(flag: str, variable: str) -> str:
    return f"`--{flag}`<br>`{variable.upper()}`"


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _row(names: str, hint: Any, field: FieldInfo) -> str:
    words = [_type(hint), _range(field)]
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| {names} | {', '.join(word for word in words if word)} | {_default(field)} | {meaning} |"


def _type(hint: Any) -> str:
    """A type in plain words.

    >>> _type(int | None), _type(list[float]), _type(Literal["a", "b"])
    ('whole number', 'number, several', '`a`, `b`')
    """
    if hint in PLACES:
        return PLACES[hint]
    arguments = get_args(hint)
    kind = get_origin(hint)
    if kind is Annotated:
        return _type(arguments[0])
    if kind in (Union, UnionType):
        return " or ".join(_type(each) for each in arguments if each is not NoneType)
    if kind is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if kind in (list, tuple):
        return f"{_type(arguments[0])}, several"
    return WORDS.get(get_origin(hint) or hint, getattr(hint, "__name__", str(hint)))


def _range(field: FieldInfo) -> str:
    limits = {type(bound): getattr(bound, BOUNDS[type(bound)][0]) for bound in field.metadata if type(bound) in BOUNDS}
    if limits.keys() == {Ge, Le}:
        return f"{limits[Ge]:,} to {limits[Le]:,}"
    return " and ".join(BOUNDS[kind][1].format(f"{limit:,}") for kind, limit in limits.items())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value != field.get_default(call_default_factory=True, validated_data={}):
        return "drawn"
    if value is None or value == () or value == []:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`" if value != "" else "empty"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page())
