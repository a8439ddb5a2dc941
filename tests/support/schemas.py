"""JSON Schemas of the kinds that the JSON Schema Test Suite has, as far as grammars enforce them; all are bounded."""

import json
import random
from collections.abc import Callable
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]
_NAMES = ("name", "age", "tags", "kind", "size", "is_open", "x", "größe", "a b", "$id_", "line\nbreak", 'quo"te')
_WORDS = ("red", "green", "blue", "", "a b", "ä", "tab\t", 'say "hi"', "\\", "null")


def schemas(count: int, seed: int = 0) -> list[Schema]:
    """So many schemas, all different; each kind in its turn."""
    numbers, found, seen = random.Random(seed), [], set[str]()
    turn = 0
    while len(found) < count:
        schema = _OF_ROOT[turn % len(_OF_ROOT)](numbers, 2)
        turn += 1
        if (text := json.dumps(schema, sort_keys=True)) not in seen:
            seen.add(text)
            found.append(schema)
    return found


def _any(numbers: random.Random, depth: int) -> Schema:
    """A schema that may hold others `depth` levels deep."""
    return numbers.choice(_KINDS if depth else _FLAT)(numbers, max(depth, 1))


def _integer(numbers: random.Random, depth: int) -> Schema:
    low = numbers.randint(-1000, 1000)
    bounds = {"minimum": low, "maximum": low + numbers.randint(1, 5000)}
    if numbers.random() < 0.3:
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": low + numbers.randint(2, 50)}
    if numbers.random() < 0.3:
        bounds = {"minimum": low, "maximum": low + 500, "multipleOf": numbers.choice([2, 3, 7, 10])}
    return {"type": "integer", **bounds}


def _number(numbers: random.Random, depth: int) -> Schema:
    low = round(numbers.uniform(-50, 50), 2)
    return {"type": "number", "minimum": low, "maximum": round(low + numbers.uniform(1, 100), 2)}


def _length(numbers: random.Random, depth: int) -> Schema:
    low = numbers.randint(0, 4)
    return {"type": "string", "minLength": low, "maxLength": low + numbers.randint(0, 8)}


def _pattern(numbers: random.Random, depth: int) -> Schema:
    part = numbers.choice(["[a-c]", "[0-9]", r"\d", "(ab|cd)", "[^a-y]", "x?y", r"[\w-]"])
    low = numbers.randint(1, 3)
    return {"type": "string", "pattern": f"^{part}{{{low},{low + numbers.randint(0, 3)}}}$"}


def _format(numbers: random.Random, depth: int) -> Schema:
    return {"type": "string", "format": numbers.choice(["date", "time", "date-time", "uuid", "ipv6", "duration"])}


def _enum(numbers: random.Random, depth: int) -> Schema:
    values = [*numbers.sample(_WORDS, 3), numbers.randint(-9, 9), None, True, 1.5, [1, "a"], {"a": None}]
    return {"enum": numbers.sample(values, numbers.randint(1, len(values)))}


def _typed_enum(numbers: random.Random, depth: int) -> Schema:
    return {"type": "string", "enum": numbers.sample(_WORDS, numbers.randint(2, 5)), "title": "A word"}


def _const(numbers: random.Random, depth: int) -> Schema:
    return {"const": numbers.choice([*_WORDS, 7, -0.25, False, {"a": [1, {"b": None}]}, [], [[]]])}


def _simple(numbers: random.Random, depth: int) -> Schema:
    return {"type": numbers.choice(["boolean", "null"]), "description": f"number {numbers.randint(0, 99)}"}


def _type_list(numbers: random.Random, depth: int) -> Schema:
    return {"type": ["boolean", "null", "integer"], "minimum": numbers.randint(0, 9), "maximum": 99}


def _array(numbers: random.Random, depth: int) -> Schema:
    low = numbers.randint(0, 2)
    return {
        "type": "array",
        "items": _any(numbers, depth - 1),
        "minItems": low,
        "maxItems": low + numbers.randint(0, 2),
    }


def _tuple(numbers: random.Random, depth: int) -> Schema:
    first = [_any(numbers, depth - 1) for _ in range(numbers.randint(1, 3))]
    if numbers.random() < 0.5:
        return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}
    return {"type": "array", "prefixItems": first, "items": {"type": "null"}, "maxItems": len(first) + 1}


def _object(numbers: random.Random, depth: int) -> Schema:
    names = numbers.sample(_NAMES, numbers.randint(1, 3))
    required = numbers.sample(names, numbers.randint(0, len(names)))
    properties = {name: _any(numbers, depth - 1) for name in names}
    closed = {"additionalProperties": False} if numbers.random() < 0.5 else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


def _map(numbers: random.Random, depth: int) -> Schema:
    keys = numbers.choice([
        {"patternProperties": {"^[a-d]_x$": _any(numbers, 0)}, "additionalProperties": False},
        {"propertyNames": {"type": "string", "pattern": "^[a-z]{1,3}$"}},
        {"propertyNames": {"enum": ["one", "two", "three"]}},
    ])  # fmt: skip
    return {"type": "object", "maxProperties": numbers.randint(1, 2), **keys}


def _any_of(numbers: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(numbers, depth - 1) for _ in range(numbers.randint(1, 3))]}


def _one_of(numbers: random.Random, depth: int) -> Schema:
    kinds = [{"type": "null"}, {"type": "boolean"}, _length(numbers, 0), _integer(numbers, 0), _object(numbers, 1)]
    return {"oneOf": numbers.sample(kinds, numbers.randint(2, 4))}


def _reference(numbers: random.Random, depth: int) -> Schema:
    properties = {"head": {"$ref": "#/$defs/part"}, "rest": {"type": "array", "items": {"$ref": "#/$defs/part"}}}
    properties["rest"]["maxItems"] = 2
    return {"properties": properties, "required": ["head"], "$defs": {"part": _any(numbers, depth - 1)}}


def _all_of(numbers: random.Random, depth: int) -> Schema:
    return {"allOf": [_any(numbers, depth - 1)], "default": None}


_FLAT: tuple[Callable[[random.Random, int], Schema], ...] = (
    _integer, _number, _length, _pattern, _format, _enum, _typed_enum, _const, _simple, _type_list,
)  # fmt: skip
_KINDS = (*_FLAT, _array, _tuple, _object, _map, _any_of, _one_of, _all_of)
# A reference is resolved from the root.
_OF_ROOT = (*_KINDS, _reference)
