"""Arguments of every method for chats in Python, and the conversations that they make."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from quire.engine.chat.conversation import Conversation, read_conversations
from quire.engine.chat.message import Message
from quire.engine.chat.tool_choice import ToolChoice

# Of one conversation.
Messages = Sequence[Mapping[str, Any] | Message]


class ChatFields(TypedDict, total=False):
    """None asks for nothing, as does what is left out."""

    tools: Sequence[Mapping[str, Any]] | None
    """That the model may call, as OpenAI's API has them."""

    tool_choice: str | Mapping[str, Any] | None
    """ "auto", "none", "required", {"type": "function", "function": {"name": the one to call}}, or
    {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": some of the tools}}."""

    documents: Sequence[Mapping[str, Any]] | None
    """To answer from, if the model's template knows them."""

    chat_template: str | None
    """In Jinja, or the name of one of the model's; None: the model's."""

    chat_template_kwargs: Mapping[str, Any] | None
    """Further variables of the template."""

    continue_final_message: bool
    """Go on with the last message."""


def read_chats(
    messages: Messages | Sequence[Messages], fields: ChatFields
) -> tuple[list[Conversation], ToolChoice, str | None]:
    """Conversations, what is wanted of their tools, and their template.

    Raises:
        InvalidRequest: names the field at fault.
        TypeError: there is no such field.
    """
    if unknown := fields.keys() - ChatFields.__annotations__.keys():
        known = ", ".join(ChatFields.__annotations__)
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}; chats have {known}")
    conversations = read_conversations(
        messages,
        tools=fields.get("tools"),
        documents=fields.get("documents"),
        template_kwargs=fields.get("chat_template_kwargs"),
        continue_final_message=fields.get("continue_final_message"),
    )
    choice = ToolChoice.read(fields.get("tool_choice"), conversations[0].tool_names)
    return conversations, choice, fields.get("chat_template")
