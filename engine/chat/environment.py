"""The Jinja environment that chat templates are written for: what `apply_chat_template` of transformers gives them.

Templates come with models that anybody may have made, so it is Jinja's sandbox, and a template changes nothing that it
is given.
"""

import json
from datetime import datetime
from typing import Any, Final

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


def compile_template(source: str) -> Template:
    """The template, ready to render; safe to share between threads.

    Raises:
        TemplateSyntaxError: it is no template. Other errors mean the same: Jinja leaves some to Python's compiler.
    """
    return _ENVIRONMENT.from_string(source)


class _Generation(Extension):
    """Lets templates mark what the model wrote with {% generation %}, which changes nothing here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # What is set inside stays inside.
        return nodes.Scope(body, lineno=line)


class _SafeNamespace(Namespace):
    """Without names in Python's own style: Jinja would call some of them outside of the sandbox."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        for name in dict(*args, **attributes):
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace's names must not begin with an underscore, got {name!r}")


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    """The machine's local time."""
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _SafeNamespace,
    }
    return environment


_ENVIRONMENT: Final = _make_environment()
