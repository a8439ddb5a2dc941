"""What the text of a chat's answer must match, as xgrammar's structural tags: what follows the reasoning."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.chat.reasoning import THINK_BEGIN, THINK_END
from quire.engine.grammar.schema import enforceable

# Without a bound, a small model may write spaces for ever.
_MAX_WHITE_SPACE: Final = 20
_Format = dict[str, Any]


def required_calls(tools: Sequence[Mapping[str, Any]], name: str | None, *, only_first: bool) -> _Format:
    """A list of calls, as `RequiredReader` reads it.

    Args:
        name: of the one tool to call; None: any, at least one.
        only_first: one call.
    """
    call = {"type": "or", "elements": [_call(tool["function"]) for tool in tools if name in (None, _name(tool))]}
    if only_first or name is not None:
        return _sequence(_text("["), call, _text("]"))
    more = {"type": "star", "content": _sequence(_text(", "), call)}
    return _sequence(_text("["), call, more, _text("]"))


def format_of(structure: StructuredOutput) -> _Format:
    """The same as a part of a structural tag.

    Raises:
        InvalidRequest: a JSON schema has what an answer is not held to.
    """
    if structure.json_schema is not None:
        try:
            return _json(json.loads(enforceable(structure.json_schema)))
        except ValueError as error:
            field = "sampling.structured_output.json_schema"
            raise InvalidRequest(field, structure.json_schema, f"must compile: {error}") from error
    if structure.json_object:
        return _json({"type": "object", "additionalProperties": True})
    if structure.regex is not None:
        return {"type": "regex", "pattern": structure.regex}
    if structure.grammar is not None:
        return {"type": "grammar", "grammar": structure.grammar}
    return {"type": "or", "elements": [_text(choice) for choice in structure.choice]}


def behind_reasoning(content: _Format, *, is_open: bool) -> _Format:
    """Reasoning, and then the content.

    Args:
        is_open: the prompt has begun the reasoning; else there may be none.
    """
    thought: _Format = {
        "type": "tag",
        "begin": "" if is_open else THINK_BEGIN,
        "content": {"type": "any_text"},
        "end": THINK_END,
    }
    thought = _sequence(thought, {"type": "regex", "pattern": r"\n{0,2}"})
    return _sequence(thought if is_open else {"type": "optional", "content": thought}, content)


def structural_tag(content: _Format) -> StructuredOutput:
    """The structure of a whole answer."""
    return StructuredOutput(structural_tag=json.dumps({"type": "structural_tag", "format": content}))


def _call(function: Mapping[str, Any]) -> _Format:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    begin = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": '
    return _sequence(_text(begin), _json(schema), _text("}"))


def _name(tool: Mapping[str, Any]) -> str:
    name: str = tool["function"]["name"]
    return name


def _json(schema: Any) -> _Format:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _MAX_WHITE_SPACE}


def _text(value: str) -> _Format:
    return {"type": "const_string", "value": value}


def _sequence(*elements: _Format) -> _Format:
    return {"type": "sequence", "elements": list(elements)}
