"""Hermes, Qwen2.5 and Qwen3: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, each call by itself."""

from typing import Final

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import CallReader, Outcome

_BEGIN: Final = "<tool_call>"
_END: Final = "</tool_call>"


class HermesReader(CallReader):
    """Some models leave out the end of the last call, or that of all."""

    markers = (_BEGIN, _END)

    def _read_answer(self) -> Reading[None]:
        while (yield from self._content_until(_BEGIN)):
            before = _BEGIN + (yield from self._skip_space())
            if (yield from self._peek()) != "{":
                self._content(before)
                continue
            outcome = yield from self._object(before)
            if outcome is Outcome.BROKEN:
                yield from self._ignore_until(_END)
            elif outcome is Outcome.CALL:
                yield from self._skip_space()
                yield from self._skip(_END)
