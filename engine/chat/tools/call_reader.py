"""What the formats of tool calls have in common: content around calls, and calls written as JSON objects."""

import json
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Any, ClassVar, Final

from quire.engine.chat.delta import CallDelta, ContentDelta
from quire.engine.chat.reader import Reader, Reading

# Of a function, and of a key.
MAX_NAME_CHARS: Final = 256
_ARGUMENTS: Final = ("arguments", "parameters")
# An object that begins with another key is not a call, but what the user asked for.
_FIRST_KEYS: Final = ("name", "id", "type", *_ARGUMENTS)


class Outcome(Enum):
    """Of reading what may be a call."""

    CALL = auto()
    BROKEN = auto()
    """A call that ends before it is complete."""
    CONTENT = auto()
    """It was none, and went to the content as it was."""


class CallReader(Reader):
    """Base of all formats. What only looks like a call is content; white space around calls is not.

    A call is told as soon as its name is complete, and its arguments as they come. They are not checked: a model may
    write any text, and who asked for the call parses it.

    Args:
        tools: that the model may call: {"type": "function", "function": {"name": ...}}.

    Attributes:
        markers: what stands around calls; models have them as special tokens.
        num_calls: calls told so far.
    """

    markers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self.num_calls = 0
        self._functions = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._space = ""

    def _read(self) -> Reading[None]:
        yield from self._read_answer()
        if not self.num_calls and self._space:
            self._put(ContentDelta(self._space))

    @abstractmethod
    def _read_answer(self) -> Reading[None]:
        """Reads the whole text."""

    def _new_id(self) -> str:
        return f"call_{uuid.uuid4().hex[:24]}"

    def _may_call(self, name: str) -> bool:
        """Whether an object with this name is a call."""
        return bool(name)

    # ── content ──

    def _content(self, text: str) -> None:
        """Adds content, but for white space at its end: a call may follow."""
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._put(ContentDelta(kept))

    def _content_until(self, *markers: str) -> Reading[str]:
        """Adds content up to a marker, which it returns; "" if the text ended."""
        return (yield from self._until(markers, self._content))

    def _ignore_until(self, *markers: str) -> Reading[str]:
        return (yield from self._until(markers, _ignore))

    # ── calls ──

    def _begin(self, name: str) -> None:
        self._space = ""
        self._put(CallDelta(self.num_calls, self._new_id(), name))
        self.num_calls += 1

    def _add_arguments(self, text: str) -> None:
        self._put(CallDelta(self.num_calls - 1, arguments=text))

    def _arguments(self) -> Reading[bool]:
        """Adds the value that is next to the arguments; whether it is complete."""
        return (yield from self._value(self._add_arguments))

    def _object(self, before: str) -> Reading[Outcome]:
        """Reads {"name": ..., "arguments": ...}, in any order and with anything beside.

        Args:
            before: text that is content with the object, if it is no call.
        """
        raw = [before]
        early: list[str] = []
        outcome = yield from self._members(raw, early)
        if outcome is Outcome.CONTENT:
            self._content("".join(raw))
        return outcome

    def _members(self, raw: list[str], early: list[str]) -> Reading[Outcome]:
        """Reads an object.

        Args:
            raw: gets all that is read until the call begins.
            early: gets arguments that come before the name.
        """
        begun = has_arguments = False
        raw.append((yield from self._take()))
        keys: list[str] = []
        while True:
            raw.append((yield from self._take_while(_is_between, None)))
            if (yield from self._skip("}")):
                raw.append("}")
                if begun and not has_arguments:
                    self._add_arguments("{}")
                return Outcome.CALL if begun else Outcome.CONTENT
            key = yield from self._key(raw)
            if key is None or (not keys and key not in _FIRST_KEYS):
                return Outcome.BROKEN if begun else Outcome.CONTENT
            keys.append(key)
            if key == "name" and not begun:
                name = yield from self._string(raw)
                if name is None or not self._may_call(name):
                    return Outcome.CONTENT
                self._begin(name)
                begun = True
                if early:
                    self._add_arguments("".join(early))
            elif key in _ARGUMENTS and not has_arguments:
                has_arguments = True
                complete = yield from (self._arguments() if begun else self._value(early.append, raw.append))
                if not complete:
                    return Outcome.BROKEN if begun else Outcome.CONTENT
            elif not (yield from self._value(_ignore, raw.append)):
                return Outcome.BROKEN if begun else Outcome.CONTENT

    def _key(self, raw: list[str]) -> Reading[str | None]:
        """A key with its colon and the space behind; None if there is none."""
        key = yield from self._string(raw)
        raw.append((yield from self._skip_space()))
        if key is None or not (yield from self._skip(":")):
            return None
        raw.append(":")
        raw.append((yield from self._skip_space()))
        return key

    def _string(self, raw: list[str], limit: int | None = MAX_NAME_CHARS) -> Reading[str | None]:
        """A string's text; None if there is none that is complete."""
        if not (yield from self._skip('"')):
            return None
        taken = ['"']
        escaped = False
        while limit is None or len(taken) <= limit + 1:
            char = yield from self._take()
            taken.append(char)
            if not char or (char == '"' and not escaped):
                break
            escaped = char == "\\" and not escaped
        text = "".join(taken)
        raw.append(text)
        try:
            found: str = json.loads(text, strict=False)
        except ValueError:
            return None
        return found

    def _value(self, put: Callable[[str], None], put_raw: Callable[[str], None] | None = None) -> Reading[bool]:
        """Gives the text of the value that is next to `put`; whether it is complete.

        A string is given as what it says: some models write arguments as JSON in a string.

        Args:
            put_raw: gets the text as it stands.
        """

        def put_both(text: str) -> None:
            put(text)
            if put_raw is not None:
                put_raw(text)

        char = yield from self._peek()
        if char in ("{", "["):
            return (yield from self._nested(put_both))
        raw: list[str] = []
        if char == '"':
            text = yield from self._string(raw, limit=None)
        else:
            text = yield from self._take_while(_is_scalar)
            raw.append(text)
        if put_raw is not None:
            put_raw("".join(raw))
        if not text and char != '"':
            return False
        if text is not None:
            put("{}" if text == "null" and char != '"' else text)
        return text is not None

    def _nested(self, put: Callable[[str], None]) -> Reading[bool]:
        """Gives an object or a list to `put`, up to the bracket that closes it."""
        depth, in_string, escaped = 0, False, False
        while True:
            begin = self._at
            for at in range(begin, len(self._text)):
                char = self._text[at]
                if escaped:
                    escaped = False
                elif in_string:
                    escaped = char == "\\"
                    in_string = char != '"'
                elif char == '"':
                    in_string = True
                elif char in "{[":
                    depth += 1
                elif char in "}]":
                    depth -= 1
                    if depth == 0:
                        self._at = at + 1
                        put(self._text[begin : self._at])
                        return True
            self._at = len(self._text)
            if self._at > begin:
                put(self._text[begin:])
            if self._is_closed:
                return False
            yield


def _ignore(text: str) -> None:
    """Takes text that nobody wants."""


def _is_between(char: str) -> bool:
    return char.isspace() or char == ","


def _is_scalar(char: str) -> bool:
    return char.isalnum() or char in "+-._"
