"""DeepSeek V3, R1 and V3.1. A call of V3 and R1 has its kind, its name, and its arguments in a fence of Markdown:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name
    ```json
    {...}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

One of V3.1 is `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`.
"""

from typing import Final

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import MAX_NAME_CHARS, CallReader

_CALLS_BEGIN: Final = "<｜tool▁calls▁begin｜>"
_CALLS_END: Final = "<｜tool▁calls▁end｜>"
_BEGIN: Final = "<｜tool▁call▁begin｜>"
_END: Final = "<｜tool▁call▁end｜>"
_SEPARATOR: Final = "<｜tool▁sep｜>"
_KIND: Final = "function"
_FENCE: Final = "```json"


class DeepSeekReader(CallReader):
    """All versions: what follows the separator tells them apart."""

    markers = (_CALLS_BEGIN, _CALLS_END, _BEGIN, _END, _SEPARATOR)

    def _read_answer(self) -> Reading[None]:
        while marker := (yield from self._content_until(_CALLS_BEGIN, _BEGIN, _CALLS_END)):
            if marker == _BEGIN:
                yield from self._call()

    def _call(self) -> Reading[None]:
        head = yield from self._take_while(_is_head, MAX_NAME_CHARS)
        if not (yield from self._skip(_SEPARATOR)):
            self._content(_BEGIN + head)
            return
        before, name = _BEGIN + head + _SEPARATOR, head.strip()
        if name == _KIND and (yield from self._peek()) != "{":
            name = yield from self._take_while(_is_head, MAX_NAME_CHARS)
            before += name
            name = name.strip()
        if not name:
            self._content(before)
            return
        self._begin(name)
        yield from self._skip_space()
        if (yield from self._skip(_FENCE)):
            yield from self._skip_space()
        if (yield from self._skip(_END)):
            self._add_arguments("{}")
            return
        yield from self._arguments()
        yield from self._ignore_until(_END, _CALLS_END)


def _is_head(char: str) -> bool:
    return char not in "<\n"
