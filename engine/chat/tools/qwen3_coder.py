"""Qwen3-Coder: a call in tags, with each argument as plain text between its own:

    <tool_call>
    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>
    </tool_call>

A line break behind the opening tag and one before the closing tag are none of the value's. The arguments are told as
JSON: a value has the type that the tool's schema says, and is a string where the schema says none.
"""

import json
from collections.abc import Callable
from typing import Final

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import MAX_NAME_CHARS, CallReader
from quire.engine.chat.tools.schema_types import as_json, is_only_text, parameter_types

_BEGIN: Final = "<tool_call>"
_END: Final = "</tool_call>"
_FUNCTION: Final = "<function="
_FUNCTION_END: Final = "</function>"
_PARAMETER: Final = "<parameter="
_PARAMETER_END: Final = "</parameter>"


class Qwen3CoderReader(CallReader):
    """Some answers leave out `<tool_call>`; only functions that are tools are called then."""

    markers = (_BEGIN, _END)

    def _read_answer(self) -> Reading[None]:
        while marker := (yield from self._content_until(_BEGIN, _FUNCTION)):
            before = marker
            if marker == _BEGIN:
                before += yield from self._skip_space()
                if not (yield from self._skip(_FUNCTION)):
                    self._content(before)
                    continue
                before += _FUNCTION
            name = yield from self._take_while(_is_name, MAX_NAME_CHARS)
            is_known = name in self._functions or marker == _BEGIN
            if name and is_known and (yield from self._skip(">")):
                yield from self._call(name)
            else:
                self._content(before + name)

    def _call(self, name: str) -> Reading[None]:
        self._begin(name)
        before = "{"
        while (marker := (yield from self._ignore_until(_PARAMETER, _FUNCTION_END, _END))) == _PARAMETER:
            key = yield from self._take_while(_is_name, MAX_NAME_CHARS)
            if key and (yield from self._skip(">")):
                self._add_arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
                before = ", "
                yield from self._argument(parameter_types(self._functions.get(name, {}), key))
        if not marker:
            return
        self._add_arguments("{}" if before == "{" else "}")
        if marker == _FUNCTION_END:
            yield from self._skip_space()
            yield from self._skip(_END)

    def _argument(self, types: frozenset[str]) -> Reading[None]:
        """Adds one value: text as it comes, anything else when it is complete."""
        yield from self._skip("\n")
        if is_only_text(types):
            self._add_arguments('"')
            text = _Lines(lambda piece: self._add_arguments(json.dumps(piece, ensure_ascii=False)[1:-1]))
            if (yield from self._until((_PARAMETER_END,), text.push)):
                self._add_arguments('"')
            return
        pieces: list[str] = []
        text = _Lines(pieces.append)
        if (yield from self._until((_PARAMETER_END,), text.push)):
            self._add_arguments(as_json("".join(pieces), types))


class _Lines:
    """Passes text on but for one line break at its end."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put
        self._kept = ""

    def push(self, text: str) -> None:
        text = self._kept + text
        self._kept = "\n" if text.endswith("\n") else ""
        if text := text.removesuffix("\n"):
            self._put(text)


def _is_name(char: str) -> bool:
    return char not in "<>\n"
