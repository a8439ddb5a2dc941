"""A scripted model for chats: what it says to a question, to one with tools, and behind the results of its calls."""

from pathlib import Path
from typing import Final

from support.scripted_model import write_scripted_model

CALLS: Final = (
    '<think>Füßen is a town.\n</think>\n\nI look it up. 😀\n<tool_call>\n{"name": "get_weather", "arguments": '
    '{"town": "Füßen", "days": 2}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
CALLED: Final = [("get_weather", {"town": "Füßen", "days": 2}), ("now", {})]
ANSWER: Final = "It is 21.5 degrees in Füßen."
PLAIN: Final = "A plain answer, ending here."
THOUGHT: Final = "<think>Let me see: 1 + 1.</think>\n\nTwo."
# The prompt's last character says what is asked for.
TEMPLATE: Final = (
    "{%- for message in messages -%}[{{ message.role }}] {{ message.content }}"
    "{%- for call in message.tool_calls -%}<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}"
    "{%- endfor -%}{%- if false -%}</think>{%- endif -%}"
    "{%- if messages[-1].role == 'tool' -%}R{%- elif tools -%}C{%- elif enable_thinking is defined -%}T"
    "{%- else -%}P{%- endif -%}"
)


def write_chat_model(folder: Path) -> Path:
    """Writes the model; returns the folder."""
    return write_scripted_model(folder, {"C": CALLS, "R": ANSWER, "P": PLAIN, "T": THOUGHT}, TEMPLATE)
