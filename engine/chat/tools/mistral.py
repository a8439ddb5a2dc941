"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and since 2025 `[TOOL_CALLS]name[ARGS]{...}`.

In the newer form each call has a marker of its own, and an id may stand in it: `name[CALL_ID]id[ARGS]{...}`.
"""

import secrets
import string
from typing import Final

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import MAX_NAME_CHARS, CallReader, Outcome

_BEGIN: Final = "[TOOL_CALLS]"
_ID: Final = "[CALL_ID]"
_ARGUMENTS: Final = "[ARGS]"
_ALPHABET: Final = string.ascii_letters + string.digits
# What its templates accept.
_ID_CHARS: Final = 9


class MistralReader(CallReader):
    """Both forms."""

    markers = (_BEGIN, _ID, _ARGUMENTS)

    def _read_answer(self) -> Reading[None]:
        while (yield from self._content_until(_BEGIN)):
            before = _BEGIN + (yield from self._skip_space())
            char = yield from self._peek()
            if char == "[":
                yield from self._list(before)
            elif char == "{":
                yield from self._object(before)
            else:
                yield from self._named(before)

    def _new_id(self) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))

    def _list(self, before: str) -> Reading[None]:
        before += (yield from self._take()) + (yield from self._skip_space())
        while (yield from self._peek()) == "{":
            outcome = yield from self._object(before)
            if outcome is Outcome.CONTENT:
                return
            yield from self._take_while(_is_between)
            before = ""
        if not (yield from self._skip("]")):
            self._content(before)

    def _named(self, before: str) -> Reading[None]:
        name = yield from self._take_while(_is_name, MAX_NAME_CHARS)
        before += name
        if name and (yield from self._skip(_ID)):
            before += _ID
            before += yield from self._take_while(str.isalnum, MAX_NAME_CHARS)
        if name and (yield from self._skip(_ARGUMENTS)):
            before += _ARGUMENTS
        before += yield from self._skip_space()
        if not name or (yield from self._peek()) != "{":
            self._content(before)
            return
        self._begin(name)
        yield from self._arguments()


def _is_between(char: str) -> bool:
    return char.isspace() or char == ","


def _is_name(char: str) -> bool:
    return char.isalnum() or char in "_-."
