"""Conversations, the templates of `chat_templates/`, and what transformers makes of both."""

import json
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from transformers import PreTrainedTokenizerFast

from support.tokenizers import byte_tokenizer

TEMPLATES: Final = Path(__file__).parent / "chat_templates"
SPECIAL_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>"}
WEATHER: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a town, e.g. <Füßen> & 'others'",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["town"],
        },
    },
}
TIME: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
_ASKED: Final[list[dict[str, Any]]] = [
    {"role": "user", "content": "How warm is it in Füßen?"},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "abcdefghi",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"town": "Füßen", "days": 2}},
            }
        ],
    },
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"warm": [21.5, 19]}'},
]
_TURNS: Final = [
    {"role": "user", "content": " Hello, <b>you</b> & 😀\n"},
    {"role": "assistant", "content": "Good day. "},
    {"role": "user", "content": "And?"},
]
_THOUGHT: Final = [*_TURNS[:1], {"role": "assistant", "content": "Good day.", "reasoning_content": "A greeting.\n"}]

# Arguments of `apply_chat_template`, whose generation prompt is off unless it is asked for.
CHATS: Final = MappingProxyType(
    {
        "one": {"messages": _TURNS[:1], "add_generation_prompt": True},
        "turns": {"messages": _TURNS, "add_generation_prompt": True},
        "system": {"messages": [{"role": "system", "content": " Be brief. "}, *_TURNS], "add_generation_prompt": True},
        "closed": {"messages": _TURNS[:2]},
        "two users": {"messages": [*_TURNS[:1], *_TURNS[:1]]},
        "continued": {"messages": _TURNS[:2], "continue_final_message": True},
        "reasoning": {"messages": _THOUGHT},
        "reasoned": {"messages": [*_THOUGHT, _TURNS[2]], "add_generation_prompt": True},
        "no thinking": {"messages": _TURNS, "add_generation_prompt": True, "enable_thinking": False},
        "dated": {"messages": _TURNS, "add_generation_prompt": True, "date_string": "1 May 2020"},
        "tools": {"messages": _TURNS, "tools": [WEATHER, TIME], "add_generation_prompt": True},
        "tools, system": {"messages": [{"role": "system", "content": "Hm"}, *_TURNS], "tools": [TIME]},
        "called": {"messages": _ASKED, "tools": [WEATHER], "add_generation_prompt": True},
        "answered": {
            "messages": [*_ASKED, {"role": "assistant", "content": "21.5 degrees."}, _TURNS[2]],
            "tools": [WEATHER, TIME],
            "add_generation_prompt": True,
        },
        "documents": {"messages": _TURNS, "documents": [{"title": "a", "text": "b\nc"}], "add_generation_prompt": True},
    }
)


def chat(name: str) -> dict[str, Any]:
    """A copy of one of `CHATS`."""
    found: dict[str, Any] = deepcopy(dict(CHATS[name]))
    return found


def with_text_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The chat with the arguments of calls as OpenAI has them."""
    found = deepcopy(given)
    for message in found["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return found


class Reference:
    """What transformers renders."""

    def __init__(self) -> None:
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend, **SPECIAL_TOKENS)

    def render(self, source: str, given: dict[str, Any]) -> str | None:
        """The text; None if the template refuses the conversation."""
        rest = {key: value for key, value in given.items() if key != "messages"}
        try:
            text = self._tokenizer.apply_chat_template(given["messages"], chat_template=source, tokenize=False, **rest)
        except Exception:  # whatever an expression can raise
            return None
        assert isinstance(text, str)
        return text
