"""Llama 3.1 to 3.3: an answer that is `{"name": ..., "parameters": {...}}`, several of them with "; " between.

`<|python_tag|>` may stand in front. The built-in tools' own form behind it, `tool.call(query="...")`, is content.
"""

from typing import Final

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import CallReader, Outcome

_TAG: Final = "<|python_tag|>"


class Llama3Reader(CallReader):
    """As no marker need stand in front, only objects that name one of the tools are calls."""

    markers = (_TAG,)

    def _read_answer(self) -> Reading[None]:
        yield from self._calls((yield from self._skip_space()))
        while (yield from self._content_until(_TAG)):
            yield from self._calls(_TAG + (yield from self._skip_space()))

    def _may_call(self, name: str) -> bool:
        return name in self._functions

    def _calls(self, before: str) -> Reading[None]:
        """Reads as many calls as there are; what stands before is content if there is none."""
        while (yield from self._peek()) == "{":
            outcome = yield from self._object(before)
            if outcome is not Outcome.CALL:
                return
            yield from self._take_while(_is_between)
            before = ""
        self._content(before)


def _is_between(char: str) -> bool:
    return char.isspace() or char == ";"
