"""Messages with fields at their extremes: every field of a message and of all messages within it, set there or not."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

_INT32 = (-(2**31), -1, 0, 1, 2**31 - 1)
_INT64 = (-(2**63), -1, 0, 1, 2**63 - 1)
_UINT32 = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
_UINT64 = (0, 1, 2**32 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -1.0, 3e38, -3e38, 1e-45, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "\x00", "\n\x1b[2J", "ä", "x" * 10_000)
# Packed numbers: none, a torn one, the lowest and highest, many.
_BYTES = (b"", b"\x01", b"\x00\x00\x00\x80", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 400_000)
_EXTREMES: dict[int, Sequence[Any]] = {
    FieldDescriptor.TYPE_BOOL: (False, True),
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_FLOAT: _FLOATS,
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_ENUM: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_UINT64: _UINT64,
}
# Each of three changes may multiply what another one has made: a message has some tens of megabytes at most.
_MANY = 20

_Reach = Callable[[Message], Message]


class Forgery(NamedTuple, Generic[MessageT]):
    """A message in which something is forged.

    Attributes:
        fields: full names of the fields.
    """

    fields: tuple[str, ...]
    message: MessageT


class _Change(NamedTuple):
    field: str
    apply: Callable[[Message], None]


def forgeries(good: MessageT) -> Iterator[Forgery[MessageT]]:
    """Each field at each of its extremes, alone."""
    for change in _changes(good.DESCRIPTOR, lambda root: root):
        yield _forged(good, [change])


def endless_forgeries(good: MessageT, chance: random.Random) -> Iterator[Forgery[MessageT]]:
    """Two or three fields at an extreme at once, without an end."""
    changes = list(_changes(good.DESCRIPTOR, lambda root: root))
    while True:
        yield _forged(good, chance.sample(changes, chance.choice((2, 3))))


def forged(good: MessageT, chance: random.Random) -> MessageT:
    """One to three fields at an extreme."""
    changes = list(_changes(good.DESCRIPTOR, lambda root: root))
    return _forged(good, chance.sample(changes, chance.choice((1, 1, 2, 3)))).message


def field_names(message_type: Descriptor) -> set[str]:
    """Of the type and of all within it."""
    return {change.field for change in _changes(message_type, lambda root: root)}


def _forged(good: MessageT, changes: Sequence[_Change]) -> Forgery[MessageT]:
    message = type(good)()
    message.CopyFrom(good)
    for change in changes:
        change.apply(message)
    return Forgery(tuple(change.field for change in changes), message)


def _changes(message_type: Descriptor, reach: _Reach) -> Iterator[_Change]:
    """All of them, where `reach` leads from the outermost message to one of this type."""
    for field in message_type.fields:
        for setter in _setters(field):
            yield _Change(field.full_name, lambda root, setter=setter: setter(reach(root)))
        if field.type == FieldDescriptor.TYPE_MESSAGE and not _is_map(field):
            yield from _changes(field.message_type, _within(reach, field))


def _within(reach: _Reach, field: FieldDescriptor) -> _Reach:
    """To a field's message, the first of several; one is made where there is none."""

    def reach_field(root: Message) -> Message:
        value = getattr(reach(root), field.name)
        if not field.is_repeated:
            value.SetInParent()
            return value
        return value[0] if value else value.add()

    return reach_field


def _setters(field: FieldDescriptor) -> Iterator[Callable[[Message], None]]:
    name = field.name
    yield lambda message: message.ClearField(name)
    if _is_map(field):
        key, value = (_EXTREMES[field.message_type.fields_by_name[each].type] for each in ("key", "value"))
        for entry in [(each, value[0]) for each in key] + [(key[0], each) for each in value]:
            yield lambda message, entry=entry: getattr(message, name).update([entry])
    elif field.type == FieldDescriptor.TYPE_MESSAGE and field.is_repeated:
        yield lambda message: getattr(message, name).add()
        yield lambda message: getattr(message, name).extend(list(getattr(message, name))[:1] * _MANY)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        yield lambda message: getattr(message, name).SetInParent()
    elif field.is_repeated:
        for each in _EXTREMES[field.type]:
            yield lambda message, each=each: getattr(message, name).append(each)
        yield lambda message: getattr(message, name).extend([_EXTREMES[field.type][-1]] * 100)
    else:
        for each in _EXTREMES[field.type]:
            yield lambda message, each=each: setattr(message, name, each)
        if field.type == FieldDescriptor.TYPE_BYTES:
            yield from (lambda message, end=end: _lengthen(message, name, end) for end in _BYTES)


def _lengthen(message: Any, name: str, end: bytes) -> None:
    """What is there, with more behind it."""
    setattr(message, name, getattr(message, name) + end)


def _is_map(field: FieldDescriptor) -> bool:
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    return is_message and bool(field.message_type.GetOptions().map_entry)
