"""Schemas that a grammar would not hold an answer to."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest

from quire.engine.grammar.schema import enforceable

_ANIMALS = {
    "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
    "dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "puppy"]}}, "required": ["kind"]},
}
_ENFORCED = (
    True,
    {},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^a+$", "title": "A", "default": "a"},
    {"type": "integer", "minimum": 1, "multipleOf": 2},
    {"type": ["integer", "null"], "maximum": 3},
    {"type": "string", "enum": ["a", "b"]},
    {"type": "integer", "const": 3.0},
    {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], "$defs": {"x": {"type": "null"}}},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "perhaps"},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "maxItems": 3},
    {"type": "object", "patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False},
    {"type": "array", "uniqueItems": False},
)  # fmt: skip
_UNENFORCED = (
    ({"not": {"type": "string"}}, "the schema: not is not supported"),
    ({"type": "array", "uniqueItems": True}, "the schema: uniqueItems is not supported"),
    ({"type": "array", "contains": {"type": "string"}}, "the schema: contains is not supported"),
    ({"properties": {"a": {"if": {}, "type": "null"}}}, "the schema.properties.a: if is not supported"),
    ({"minimum": 3}, "the schema: minimum needs a type beside it"),
    ({"required": ["a"]}, "the schema: required needs a type beside it"),
    ({"type": "object", "required": ["a"]}, "the schema: required: 'a' is not among the properties"),
    ({"type": "string", "enum": ["a", 1]}, "the schema: type beside enum is not supported"),
    ({"type": "integer", "const": True}, "the schema: type beside const is not supported"),
    ({"anyOf": [{"type": "string"}], "maxLength": 3}, "the schema: maxLength beside anyOf is not supported"),
    ({"$ref": "#/$defs/x", "minimum": 3}, "the schema: minimum beside $ref is not supported"),
    ({"type": "string", "pattern": "a", "maxLength": 3}, "the schema: maxLength beside pattern is not supported"),
    ({"type": "string", "pattern": "a", "format": "date"}, "the schema: pattern beside format is not supported"),
    ({"items": {"anyOf": [{}, {"dependencies": {}}]}}, "the schema.items.anyOf[1]: dependencies is not supported"),
    ({"$defs": {"x": {"else": True}}}, "the schema.$defs.x: else is not supported"),
    (
        {"type": "object", "properties": {}, "patternProperties": {"a": {}}},
        "the schema: properties beside patternProperties is not supported",
    ),
)  # fmt: skip


@pytest.mark.parametrize("schema", _ENFORCED, ids=json.dumps)
def test_a_schema_that_a_grammar_enforces_passes(schema: object) -> None:
    assert json.loads(enforceable(json.dumps(schema))) == schema


@pytest.mark.parametrize(("schema", "reason"), _UNENFORCED, ids=lambda value: json.dumps(value)[:60])
def test_a_schema_that_answers_might_break_is_refused(schema: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}"):
        enforceable(json.dumps(schema))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("{'a': 1}", "Expecting property name"),
        ("[" * 100_000, "deeply nested"),
    ],
    ids=lambda value: value[:8],
)
def test_what_is_no_json_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enforceable(text)


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "null"}, {"type": "string", "maxLength": 3}, {"type": ["integer", "boolean"]}],
        [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        [{"$ref": "#/$defs/cat"}, {"type": "array", "items": True}],
    ],
)
def test_one_of_is_any_of_where_the_options_have_nothing_in_common(options: list[Any]) -> None:
    schema = {"properties": {"a": {"oneOf": options}}, "$defs": _ANIMALS}
    any_of = {"properties": {"a": {"anyOf": options}}, "$defs": _ANIMALS}
    assert json.loads(enforceable(json.dumps(schema))) == any_of


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/cat"}],
        [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/nobody"}],
        [{"$ref": "#/$defs/cat"}, {"type": "object", "properties": {"kind": {"const": "dog"}}}],
        [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}],
        [True, {"type": "null"}],
    ],
)
def test_one_of_is_refused_where_an_answer_might_match_two(options: list[Any]) -> None:
    with pytest.raises(ValueError, match="the schema: oneOf needs options of different types"):
        enforceable(json.dumps({"oneOf": options, "$defs": _ANIMALS}))


def test_values_of_any_kind_never_crash_it() -> None:
    values = [None, True, 3, "a", [], {}, [1], {"a": 1}, [{"a": []}, {"$ref": 3}]]
    for name in ("properties", "required", "enum", "type", "anyOf", "oneOf", "items", "$defs", "uniqueItems"):
        for value in values:
            for beside in ({}, {"const": 1}, {"type": "object"}):
                with suppress(ValueError):
                    enforceable(json.dumps({name: value, **beside}))
