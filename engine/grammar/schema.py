"""What of a JSON Schema a grammar does not hold an answer to: such a schema is refused, since answers might break it.

A grammar is made by the first of `_LEADING` that a schema has, or by its type. What stands beside is left out without
a word, so it must not be there unless it changes nothing.
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

# Of these, the first that is there makes the grammar.
_LEADING: Final = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_NEVER: Final = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains",
    "maxContains", "$dynamicRef", "$recursiveRef",
})  # fmt: skip
_OF_STRINGS: Final = frozenset({"minLength", "maxLength", "pattern", "format"})
_OF_NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_OF_ARRAYS: Final = frozenset({"items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"})
_OF_OBJECTS: Final = frozenset({
    "properties", "required", "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames",
    "minProperties", "maxProperties",
})  # fmt: skip
_CONSTRAINTS: Final = frozenset({"type", *_LEADING}) | _OF_STRINGS | _OF_NUMBERS | _OF_ARRAYS | _OF_OBJECTS
# They make a schema without a type one of objects, or of arrays.
_TELLING: Final = frozenset({
    "properties", "additionalProperties", "unevaluatedProperties", "items", "prefixItems", "unevaluatedItems",
})  # fmt: skip
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = MappingProxyType({
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list,
    "object": dict,
})  # fmt: skip
_ONE: Final = ("items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "propertyNames")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")


def unenforced(text: str) -> str | None:
    """What of the schema an answer might break; None if nothing.

    Raises:
        ValueError: it is no JSON, or too deeply nested.
    """
    try:
        whole = json.loads(text)
    except RecursionError:
        raise ValueError("it is too deeply nested") from None
    open_schemas = [("the schema", whole)]
    while open_schemas:
        path, schema = open_schemas.pop()
        if isinstance(schema, Mapping):
            if reason := _unenforced_here(schema):
                return f"{path}: {reason}"
            open_schemas.extend((f"{path}.{place}", each) for place, each in _parts(schema))
    return None


def _unenforced_here(schema: Mapping[str, Any]) -> str | None:
    if never := sorted(_NEVER & schema.keys()):
        return f"{never[0]} is not supported"
    if schema.get("uniqueItems"):
        return "uniqueItems is not supported"
    leader = next((name for name in _LEADING if name in schema), None)
    given = _CONSTRAINTS & schema.keys()
    if leader is not None:
        beside = given - {leader}
        if leader in ("const", "enum") and _agree(schema, leader):
            beside -= {"type"}
        return f"{min(beside)} beside {leader} is not supported" if beside else None
    if given and "type" not in given and not given & _TELLING:
        return f"{min(given)} needs a type beside it"
    return _unenforced_string(schema) or _unenforced_object(schema)


def _agree(schema: Mapping[str, Any], leader: str) -> bool:
    """Whether all values of a `const` or `enum` are of the type beside it."""
    types = schema.get("type")
    values = schema["enum"] if leader == "enum" else [schema["const"]]
    names = types if isinstance(types, list) else [types]
    return isinstance(values, list) and all(any(_is_of(value, name) for name in names) for value in values)


def _is_of(value: object, name: object) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(name, str) and name in _TYPES and isinstance(value, _TYPES[name])


def _unenforced_string(schema: Mapping[str, Any]) -> str | None:
    lengths = schema.keys() & {"minLength", "maxLength"}
    for name in ("format", "pattern"):
        if name in schema and (beside := lengths | (schema.keys() & {"pattern"} - {name})):
            return f"{min(beside)} beside {name} is not supported"
    return None


def _unenforced_object(schema: Mapping[str, Any]) -> str | None:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if isinstance(properties, Mapping) and isinstance(required, list):
        missing = [name for name in required if not isinstance(name, str) or name not in properties]
        if missing:
            return f"required: {missing[0]!r} is not among the properties"
    if "patternProperties" in schema and (beside := schema.keys() & {"properties", "propertyNames"}):
        return f"{min(beside)} beside patternProperties is not supported"
    return None


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _ONE:
        if name in schema:
            yield name, schema[name]
    for name in _LISTS:
        if isinstance(parts := schema.get(name), list):
            yield from ((f"{name}[{index}]", part) for index, part in enumerate(parts))
    for name in _MAPS:
        if isinstance(parts := schema.get(name), Mapping):
            yield from ((f"{name}.{key}", part) for key, part in parts.items())
