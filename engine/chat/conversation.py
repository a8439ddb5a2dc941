"""All that a template makes a prompt of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.message import Message, read_messages

# What templates know by these names has fields of its own.
_RESERVED: Final = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
_MAX_NAME_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, and what else the template is given.

    Attributes:
        messages: at least one.
        tools: that the model may call, as JSON schemas: {"type": "function", "function": {"name": ...}}.
        documents: to answer from, as objects of texts.
        template_kwargs: further variables of the template.
        add_generation_prompt: the prompt ends where the assistant's next message begins.
        continue_final_message: the prompt ends within the last message, which the model goes on with.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @classmethod
    def read(
        cls,
        messages: object,
        *,
        tools: object = None,
        documents: object = None,
        template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
    ) -> Self:
        """From JSON; null asks for nothing.

        Args:
            add_generation_prompt: None: unless the last message is gone on with.

        Raises:
            InvalidRequest: names the field at fault, "chat_template_kwargs" among them.
        """
        for key in template_kwargs or {}:
            if key in _RESERVED:
                raise InvalidRequest("chat_template_kwargs", key, f"must have no {key!r}, which is a field of its own")
        if add_generation_prompt and continue_final_message:
            limit = "must be false where continue_final_message is true"
            raise InvalidRequest("add_generation_prompt", add_generation_prompt, limit)
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        return cls(
            read_messages(messages),
            tuple(_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(_list(tools, "tools"))),
            tuple(_read_document(each, index) for index, each in enumerate(_list(documents, "documents"))),
            template_kwargs,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=bool(continue_final_message),
        )

    def as_json(self) -> dict[str, Any]:
        """The arguments that `read` makes this conversation of."""
        return {
            "messages": [message.as_json() for message in self.messages],
            "tools": list(self.tools),
            "documents": list(self.documents),
            "template_kwargs": self.template_kwargs,
            "add_generation_prompt": self.add_generation_prompt,
            "continue_final_message": self.continue_final_message,
        }

    @property
    def tool_names(self) -> frozenset[str]:
        """Of the functions that may be called."""
        return frozenset(tool["function"]["name"] for tool in self.tools)


def read_conversations(given: object, **fields: Any) -> list[Conversation]:
    """One conversation or several, each a list of messages.

    Args:
        fields: of every conversation, as `Conversation.read` takes them.

    Raises:
        InvalidRequest: as `Conversation.read`.
    """
    listed = _list(given, "messages")
    is_one = not listed or isinstance(listed[0], (Mapping, Message))
    return [Conversation.read(messages, **fields) for messages in ([listed] if is_one else listed)]


def read_function(given: object, name: str) -> Mapping[str, Any]:
    """A function that may be called, as it is given.

    Args:
        name: of the field, for refusals.

    Raises:
        InvalidRequest: it has no name, or parameters that are no schema.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequest(name, given, 'must be an object with a "name"')
    called = given.get("name")
    if not isinstance(called, str) or not 1 <= len(called) <= _MAX_NAME_CHARS:
        raise InvalidRequest(f"{name}.name", called, f"must be a text of 1 to {_MAX_NAME_CHARS} characters")
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidRequest(f"{name}.parameters", parameters, "must be a JSON schema, which is an object")
    return given


def _list(given: object, name: str) -> Sequence[object]:
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise InvalidRequest(name, given, "must be a list of objects")
    return given


def _read_tool(given: object, name: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or given.get("type") != "function":
        raise InvalidRequest(name, given, 'must be an object whose "type" is "function"')
    read_function(given.get("function"), f"{name}.function")
    return given


def _read_document(given: object, index: int) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"documents[{index}]", given, "must be an object")
    return given
