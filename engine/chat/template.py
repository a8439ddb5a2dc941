"""One chat template: a conversation in, the prompt's text out.

What a template takes differs from model to model, and nothing states it: whether content may be a list of parts, and
whether the arguments of a call are an object or a text. So each is tried when the template is loaded.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jinja2.exceptions import TemplateSyntaxError

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.environment import compile_template
from quire.engine.chat.message import REASONING_KEYS, Message, ToolCall

# Of one that comes with a request, in characters. Those of models have less than 20,000.
MAX_SOURCE_CHARS: Final = 64 * 1024
_PROBE: Final = "probe"
_PARTS: Final = Message("user", (_PROBE,))
_CALL: Final = (
    Message("user", "question"),
    # Mistral's templates want ids of nine characters.
    Message("assistant", tool_calls=(ToolCall(_PROBE, '{"key": "value"}', id="call00001"),)),
    Message("tool", "result", name=_PROBE, tool_call_id="call00001"),
)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a template takes messages.

    Attributes:
        text_parts: content may be a list of parts.
        text_arguments: the arguments of a call are JSON text; else they are an object.
        null_content: a message without content has content none; else it has no content.
    """

    text_parts: bool = False
    text_arguments: bool = False
    null_content: bool = False


class ChatTemplate:
    """A compiled template. Safe to share between threads.

    Args:
        source: in Jinja.
        special_tokens: by their names, such as "bos_token".
        field: what gave the template, for refusals.

    Attributes:
        source: as given.

    Raises:
        InvalidRequest: it is no template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], field: str = "chat_template") -> None:
        self.source = source
        self._special_tokens = special_tokens
        try:
            self._template = compile_template(source)
        except TemplateSyntaxError as error:
            raise InvalidRequest(field, source, f"must be a Jinja template (line {error.lineno}: {error})") from error
        except Exception as error:  # Python's compiler refuses what Jinja lets pass, in many ways
            raise InvalidRequest(field, source, f"must be a Jinja template ({error})") from error
        self._knows_developer = "developer" in source
        self._form = self._find_form()

    def render(self, conversation: Conversation) -> str:
        """The prompt's text. The special tokens that a prompt begins with are in it.

        Raises:
            InvalidRequest: the template refuses the conversation, or cannot make a text of it.
        """
        messages = [self._as_json(message, self._form) for message in conversation.messages]
        mark = None
        if conversation.continue_final_message:
            mark = f"{uuid.uuid4().hex} "
            _append(messages[-1], mark)
        try:
            text = self._render(messages, conversation)
        except MemoryError:
            raise
        except Exception as error:  # whatever an expression can raise
            limit = f"the chat template refuses them: {str(error).strip() or type(error).__name__}"
            raise InvalidRequest("messages", [message.role for message in conversation.messages], limit) from error
        return text if mark is None else _before(text, mark)

    def _render(self, messages: list[dict[str, Any]], conversation: Conversation) -> str:
        variables = {
            **self._special_tokens,
            **(conversation.template_kwargs or {}),
            "messages": messages,
            "tools": list(conversation.tools) or None,
            "documents": list(conversation.documents) or None,
            "add_generation_prompt": conversation.add_generation_prompt,
        }
        return self._template.render(variables)

    def _as_json(self, message: Message, form: _Form) -> dict[str, Any]:
        """A message as this template takes it."""
        found = message.as_json()
        if not self._knows_developer and message.role == "developer":
            # OpenAI's newer name for the same.
            found["role"] = "system"
        if message.content is not None and not form.text_parts:
            found["content"] = message.text
        elif message.content is None and form.null_content:
            found["content"] = None
        if message.reasoning is not None:
            found |= dict.fromkeys(REASONING_KEYS[:2], message.reasoning)
        if not form.text_arguments:
            for call in found.get("tool_calls", ()):
                call["function"]["arguments"] = _as_object(call["function"]["arguments"])
        return found

    def _find_form(self) -> _Form:
        form = _Form(text_parts=self._takes_parts())
        for text_arguments in (False, True):
            for null_content in (False, True):
                tried = _Form(form.text_parts, text_arguments, null_content)
                if _PROBE in (self._try(_CALL, tried) or ""):
                    return tried
        return form

    def _takes_parts(self) -> bool:
        """Whether the texts of parts are rendered, and not the parts as they are."""
        of_text, of_parts = self._try((_PARTS,), _Form()), self._try((_PARTS,), _Form(text_parts=True))
        if of_text is None or of_parts is None:
            return of_parts is not None
        return _PROBE in of_parts and of_parts.count("type") == of_text.count("type")

    def _try(self, messages: tuple[Message, ...], form: _Form) -> str | None:
        """The text; None if the template fails."""
        try:
            return self._render([self._as_json(each, form) for each in messages], Conversation(messages))
        except Exception:  # whatever an expression can raise
            return None


def _as_object(arguments: str) -> Any:
    """What a model wrote need not be JSON; it is then left as it is."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _append(message: dict[str, Any], mark: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + mark
    elif content:
        content[-1]["text"] += mark
    else:
        limit = "must be false: the last message has no text to go on with"
        raise InvalidRequest("continue_final_message", True, limit)


def _before(text: str, mark: str) -> str:
    """The text in front of the mark; without the space that a template takes off the end of a message."""
    at = text.rfind(mark.strip())
    if at < 0:
        limit = "must be false: the chat template leaves out the end of the last message"
        raise InvalidRequest("continue_final_message", True, limit)
    return text[:at] if text.startswith(mark, at) else text[:at].rstrip()
