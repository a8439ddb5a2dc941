"""Input of the Responses API, as a conversation: items become messages, and flat tools those of chats.

Fields of an item that are not named here are passed over: clients send items back as they got them. What has a meaning
for the model is required, so that a misspelled name is noticed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import read_function
from quire.engine.chat.message import Message, ToolCall

_ROLES: Final = ("user", "assistant", "system", "developer")
_TEXT_PARTS: Final = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_ITEM_LIMIT: Final = 'must be "message", "function_call", "function_call_output" or "reasoning"; no items are kept here'
_TOOL_LIMIT: Final = 'must be "function": this server runs no tools of its own'
_TOOL_FIELDS: Final = ("type", "name", "description", "parameters", "strict")


def read_input(given: object, instructions: str | None = None) -> tuple[Message, ...]:
    """Messages from `input`, behind those of `instructions`.

    What the assistant thought, said and called one after the other is one message.

    Args:
        given: a text, or a list of items.

    Raises:
        InvalidRequest: names the part at fault, such as "input[2].content[0].type".
    """
    found = [] if instructions is None else [Message("system", instructions)]
    if isinstance(given, str):
        return (*found, Message("user", given))
    if not isinstance(given, Sequence) or not given:
        raise InvalidRequest("input", given, "must be a text or a list of at least one item")
    for index, item in enumerate(given):
        message = _read_item(item, f"input[{index}]")
        together = _together(found[-1], message) if found else None
        if together is None:
            found.append(message)
        else:
            found[-1] = together
    return tuple(found)


def read_tools(given: object) -> list[dict[str, Any]] | None:
    """Tools as chats have them: {"type": "function", "function": {"name": ...}}.

    Raises:
        InvalidRequest: one is no function, or has fields that are not known here.
    """
    if given is None:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidRequest("tools", given, "must be a list of objects")
    return [_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]


def read_tool_choice(given: object, has_tools: bool) -> object:
    """`tool_choice` as chats have it, which refuse what is none.

    Raises:
        InvalidRequest: it is of chats, or names no tool.
    """
    match given:
        case "auto" if not has_tools:
            return None
        case {"type": "function", "name": name, **rest} if not rest:
            return {"type": "function", "function": {"name": name}}
        case {"type": "function"}:
            raise InvalidRequest("tool_choice", given, 'must be {"type": "function", "name": one of the tools}')
    return given


def _read_tool(given: object, name: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, "must be an object")
    if given.get("type") != "function":
        raise InvalidRequest(f"{name}.type", given.get("type"), _TOOL_LIMIT)
    for key, value in given.items():
        if key not in _TOOL_FIELDS and value is not None:
            raise InvalidRequest(f"{name}.{key}", value, "there is no such field here; leave it out")
    kept = {key: given[key] for key in ("name", "description", "parameters") if given.get(key) is not None}
    return {"type": "function", "function": read_function(kept, name)}


def _together(earlier: Message, later: Message) -> Message | None:
    """Both as one message of the assistant, who thinks, then speaks, then calls; None: they are two."""
    if not earlier.role == later.role == "assistant":
        return None
    if later.tool_calls:
        return replace(earlier, tool_calls=earlier.tool_calls + later.tool_calls)
    if earlier.tool_calls or earlier.content is not None:
        return None
    if later.content is not None:
        return replace(earlier, content=later.content)
    return replace(earlier, reasoning=(earlier.reasoning or "") + (later.reasoning or ""))


def _read_item(given: object, name: str) -> Message:
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, "must be an object")
    match given.get("type"):
        case "message" | None:
            return Message(_read_role(given, name), _content(given.get("content"), f"{name}.content"))
        case "function_call":
            call = ToolCall(_text(given, "name", name), _text(given, "arguments", name), _text(given, "call_id", name))
            return Message("assistant", tool_calls=(call,))
        case "function_call_output":
            output = _content(given.get("output"), f"{name}.output")
            return Message("tool", output, tool_call_id=_text(given, "call_id", name))
        case "reasoning":
            return Message("assistant", reasoning=_reasoning(given, name))
    raise InvalidRequest(f"{name}.type", given.get("type"), _ITEM_LIMIT)


def _read_role(item: Mapping[str, Any], name: str) -> str:
    role: object = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{name}.role", role, f"must be one of {', '.join(_ROLES)}")
    return role


def _reasoning(item: Mapping[str, Any], name: str) -> str:
    """What was thought; its summary where that is all there is."""
    for key in ("content", "summary"):
        if item.get(key):
            return "".join(_parts(item[key], f"{name}.{key}"))
    if item.get("encrypted_content") is not None:
        raise InvalidRequest(f"{name}.encrypted_content", "given", "must be beside its text: it cannot be read here")
    return ""


def _content(given: object, name: str) -> str | tuple[str, ...]:
    return given if isinstance(given, str) else _parts(given, name)


def _parts(given: object, name: str) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidRequest(name, given, "must be a text or a list of parts")
    return tuple(_part(part, f"{name}[{index}]") for index, part in enumerate(given))


def _part(given: object, name: str) -> str:
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, 'must be an object with a "type"')
    kind: object = given.get("type")
    if kind == "refusal":
        return _text(given, "refusal", name)
    if kind not in _TEXT_PARTS:
        raise InvalidRequest(f"{name}.type", kind, "must be of text: images, sound and files are not supported")
    return _text(given, "text", name)


def _text(given: Mapping[str, Any], key: str, name: str) -> str:
    value: object = given.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}.{key}", value, "must be a text")
    return value
