"""What of a JSON Schema a grammar holds an answer to. Any other schema is refused, since answers might break it.

A grammar is made by the first of `_LEADING` that a schema has, or by its type. What stands beside is left out without
a word, so it must not be there unless it changes nothing. A grammar allows what any option of `oneOf` allows: these
must have nothing in common.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
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


def enforceable(text: str) -> str:
    """The schema as a grammar is to be made of it.

    Raises:
        ValueError: it is no JSON or too deeply nested, or says something that an answer might break.
    """
    try:
        whole = json.loads(text)
    except RecursionError:
        raise ValueError("it is too deeply nested") from None
    open_schemas = [("the schema", whole)]
    while open_schemas:
        path, schema = open_schemas.pop()
        if isinstance(schema, dict):
            if reason := _unenforced(schema, whole):
                raise ValueError(f"{path}: {reason}")
            open_schemas.extend((f"{path}.{place}", each) for place, each in _parts(schema))
            if "oneOf" in schema:
                # The same, as its options have nothing in common; the library cannot always tell.
                schema["anyOf"] = schema.pop("oneOf")
    return json.dumps(whole)


def _unenforced(schema: Mapping[str, Any], whole: Any) -> str | None:
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
        if beside:
            return f"{min(beside)} beside {leader} is not supported"
        return _unenforced_one_of(schema["oneOf"], whole) if leader == "oneOf" else None
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


def _unenforced_one_of(options: object, whole: Any) -> str | None:
    resolved = [_resolved(option, whole) for option in options] if isinstance(options, list) else []
    if all(_are_disjoint(one, other) for one, other in combinations(resolved, 2)):
        return None
    return "oneOf needs options of different types, or with different values of a property that they require"


def _resolved(schema: object, whole: Any) -> Mapping[str, Any]:
    """What a reference within the schema refers to, one step far."""
    if not isinstance(schema, Mapping):
        return {}
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found = whole
    for name in reference[2:].split("/"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _are_disjoint(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    types, other_types = _types(one), _types(other)
    if types and other_types and not types & other_types:
        return True
    tags, other_tags = _tags(one), _tags(other)
    return any(not tags[name] & other_tags[name] for name in tags.keys() & other_tags.keys())


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    """Types that a value can have; empty: any, or not known."""
    given = schema.get("type")
    names = given if isinstance(given, list) else [given]
    known = frozenset(name for name in names if isinstance(name, str) and name in _TYPES)
    return known | {"integer", "number"} if known & {"integer", "number"} else known


def _tags(schema: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Texts that each required property can be, of those that can be nothing else."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    tags = {}
    for name in required:
        part = properties.get(name) if isinstance(name, str) else None
        if isinstance(part, Mapping):
            values = [part["const"]] if "const" in part else part.get("enum")
            if isinstance(values, list) and all(isinstance(value, str) for value in values):
                tags[name] = frozenset(values)
    return tags


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
