"""The formats of tool calls by their names, and which of them a chat template teaches its model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from quire.engine.chat.tools.call_reader import CallReader
from quire.engine.chat.tools.deepseek import DeepSeekReader
from quire.engine.chat.tools.hermes import HermesReader
from quire.engine.chat.tools.llama3 import Llama3Reader
from quire.engine.chat.tools.mistral import MistralReader
from quire.engine.chat.tools.qwen3_coder import Qwen3CoderReader

TOOL_FORMATS: Final[Mapping[str, type[CallReader]]] = MappingProxyType(
    {
        "hermes": HermesReader,
        "qwen3_coder": Qwen3CoderReader,
        "llama3": Llama3Reader,
        "mistral": MistralReader,
        "deepseek": DeepSeekReader,
    }
)
# The first format with one of these in its template. Llama's has no marker that every version names.
_SIGNS: Final = (
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek", ("<｜tool▁calls▁begin｜>",)),
    ("qwen3_coder", ("<parameter=",)),
    ("hermes", ("<tool_call>",)),
    ("llama3", ("<|python_tag|>", '{"name": function name, "parameters":')),
)


def recognise_tool_format(template: str) -> str | None:
    """The format that a template writes earlier calls in; None if it is none of these."""
    return next((name for name, signs in _SIGNS if any(sign in template for sign in signs)), None)
