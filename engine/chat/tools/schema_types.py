"""Values that a model writes as plain text, as JSON of the type that a tool's schema asks for."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

_KINDS: Final[Mapping[type, str]] = MappingProxyType(
    {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object", list: "array"}
)
# As Python spells what JSON has in other words: some chat templates write earlier calls so.
_PYTHON: Final[Mapping[str, str]] = MappingProxyType({"True": "true", "False": "false", "None": "null"})
_MAX_DEPTH: Final = 16


def parameter_types(function: Mapping[str, Any], name: str) -> frozenset[str]:
    """The JSON types that a function's parameter may have; empty: its schema does not say it."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties")
    return _types(properties.get(name), schema, _MAX_DEPTH) if isinstance(properties, Mapping) else frozenset()


def is_only_text(types: frozenset[str]) -> bool:
    """Whether a value of these types is a string, whatever it says."""
    return types <= {"string"}


def as_json(text: str, types: frozenset[str]) -> str:
    """The text as JSON: a string where it may be one and is not null, and where it is nothing else."""
    written = text.strip()
    written = _PYTHON.get(written, written)
    kind = _kind(written)
    if kind == "null" in types or ("string" not in types and _is_one(kind, types)):
        return written
    return json.dumps(text, ensure_ascii=False)


def _is_one(kind: str | None, types: frozenset[str]) -> bool:
    return kind in types or (kind == "integer" and "number" in types)


def _kind(text: str) -> str | None:
    """The type of a JSON text; None if it is no JSON."""
    try:
        return _KINDS[type(json.loads(text, parse_constant=_refuse))]
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities are no JSON."""
    raise ValueError(constant)


def _types(schema: object, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    """What a schema allows by its first word that says it; `root` has its definitions."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    if isinstance(kind := schema.get("type"), str):
        return frozenset((kind,))
    if isinstance(kind, list):
        return frozenset(each for each in kind if isinstance(each, str))
    if "const" in schema:
        return _of_values([schema["const"]])
    if isinstance(values := schema.get("enum"), list):
        return _of_values(values)
    if isinstance(path := schema.get("$ref"), str):
        return _types(_definition(path, root), root, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(word), list):
            return frozenset[str]().union(*(_types(option, root, depth - 1) for option in options))
    return frozenset()


def _of_values(values: list[Any]) -> frozenset[str]:
    return frozenset(_KINDS[type(value)] for value in values if type(value) in _KINDS)


def _definition(path: str, root: Mapping[str, Any]) -> object:
    """What a reference within the schema names, such as "#/$defs/Unit"."""
    found: object = root
    for key in path.removeprefix("#/").split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
