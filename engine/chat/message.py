"""One message of a chat, as OpenAI's API has it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest

_KNOWN: Final = ("role", "content", "name", "tool_calls", "tool_call_id")
# Where servers and clients put what a model thought before it answered; the first is what is written here.
REASONING_KEYS: Final = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        name: of the function.
        arguments: JSON text, as the model wrote it.
        id: names the call in the message with its result; "": it has none.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of one side.

    Attributes:
        role: such as "system", "user", "assistant" or "tool"; the template knows which there are.
        content: a text, or several parts of text; None: there is none.
        name: of who speaks, where there are several of a role.
        reasoning: what the model thought before this answer.
        tool_calls: that the model asks for.
        tool_call_id: whose result this is.
        more: further fields, which the template may know; JSON.
    """

    role: str
    content: str | tuple[str, ...] | None = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    more: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def text(self) -> str:
        """The content, parts one after the other on lines of their own; "" if there is none."""
        return self.content if isinstance(self.content, str) else "\n".join(self.content or ())

    def as_json(self) -> dict[str, Any]:
        """The object that `read_message` reads as this message."""
        found: dict[str, Any] = {"role": self.role, **self.more}
        if self.content is not None:
            is_text = isinstance(self.content, str)
            found["content"] = self.content if is_text else [{"type": "text", "text": text} for text in self.content]
        for key, value in (
            ("name", self.name),
            (REASONING_KEYS[0], self.reasoning),
            ("tool_call_id", self.tool_call_id),
        ):
            if value is not None:
                found[key] = value
        if self.tool_calls:
            found["tool_calls"] = [_call_as_json(call) for call in self.tool_calls]
        return found


def read_messages(given: object, name: str = "messages") -> tuple[Message, ...]:
    """Messages from JSON.

    Args:
        given: a list of objects with at least a role.
        name: of the field, for refusals.

    Raises:
        InvalidRequest: it is anything else; names the part at fault, such as "messages[2].role".
    """
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise InvalidRequest(name, given, "must be a list of messages")
    if not given:
        raise InvalidRequest(name, given, "must be at least one message")
    return tuple(read_message(each, f"{name}[{index}]") for index, each in enumerate(given))


def read_message(given: object, name: str = "message") -> Message:
    """One message from JSON; null asks for nothing.

    Raises:
        InvalidRequest: as of `read_messages`.
    """
    if isinstance(given, Message):
        return given
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, 'must be an object with a "role"')
    fields = {key: value for key, value in given.items() if value is not None}
    role = _text(fields.get("role"), f"{name}.role")
    calls = fields.get("tool_calls", [])
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise InvalidRequest(f"{name}.tool_calls", calls, "must be a list of tool calls")
    reasoning = next((fields[key] for key in REASONING_KEYS if key in fields), None)
    return Message(
        role=role,
        content=_content(fields.get("content"), f"{name}.content"),
        name=_optional_text(fields.get("name"), f"{name}.name"),
        reasoning=_optional_text(reasoning, f"{name}.{REASONING_KEYS[0]}"),
        tool_calls=tuple(_read_call(call, f"{name}.tool_calls[{index}]") for index, call in enumerate(calls)),
        tool_call_id=_optional_text(fields.get("tool_call_id"), f"{name}.tool_call_id"),
        more={key: value for key, value in fields.items() if key not in _KNOWN and key not in REASONING_KEYS},
    )


def _content(given: object, name: str) -> str | tuple[str, ...] | None:
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, Sequence):
        raise InvalidRequest(name, given, "must be a text or a list of parts")
    return tuple(_part(part, f"{name}[{index}]") for index, part in enumerate(given))


def _part(given: object, name: str) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, 'must be an object with a "type"')
    kind = given.get("type")
    if kind == "refusal":
        return _text(given.get("refusal"), f"{name}.refusal")
    if kind != "text":
        raise InvalidRequest(f"{name}.type", kind, 'must be "text": images, sound and files are not supported')
    return _text(given.get("text"), f"{name}.text")


def _read_call(given: object, name: str) -> ToolCall:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(name, given, 'must be an object with a "function"')
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(
        name=_text(function.get("name"), f"{name}.function.name"),
        arguments=_text("{}" if arguments is None else arguments, f"{name}.function.arguments"),
        id=_optional_text(given.get("id"), f"{name}.id") or "",
    )


def _call_as_json(call: ToolCall) -> dict[str, Any]:
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _optional_text(value: object, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(name, value, "must be a text")
    return value
