"""Calls that a request requires: whatever its model is used to, the answer is a list of JSON objects."""

from quire.engine.chat.reader import Reading
from quire.engine.chat.tools.call_reader import CallReader, Outcome


class RequiredReader(CallReader):
    """The form is `[{"name": ..., "arguments": ...}, ...]`; `answer_structure.py` holds the answer to it."""

    def _read_answer(self) -> Reading[None]:
        before = yield from self._skip_space()
        if (yield from self._skip("[")):
            before += "[" + (yield from self._skip_space())
            while (yield from self._peek()) == "{":
                outcome = yield from self._object(before)
                before = ""
                if outcome is Outcome.CONTENT:
                    break
                yield from self._take_while(_is_between)
            if self.num_calls:
                yield from self._skip("]")
        self._content(before)
        yield from self._rest(self._content)


def _is_between(char: str) -> bool:
    return char.isspace() or char == ","
