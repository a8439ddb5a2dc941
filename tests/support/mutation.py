"""Protobuf messages with one thing wrong in them, or a few, drawn from a seed."""

import random
import struct
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

_INT32 = (-(2**31), -1, 0, 1, 2, 3, 4, 7, 63, 64, 255, 2**24 + 1, 2**31 - 1)
_UINT32 = (0, 1, 2, 3, 4, 7, 20, 21, 1024, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1)
_UINT64 = (0, 1, 2, 2**32, 2**53, 2**53 + 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, 1.0, -1.0, 1.5, 2.5, 101.0, 1e30, -1e30, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "a", "\n", "ä" * 100, "x" * 10_000)


def mutated(message: MessageT, chance: random.Random) -> MessageT:
    """A copy with one to three changes."""
    found = type(message)()
    found.CopyFrom(message)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _mutate(found, chance)
    return found


def _mutate(message: Message, chance: random.Random) -> None:
    field = chance.choice(message.DESCRIPTOR.fields)
    name, is_message = field.name, field.type == FieldDescriptor.TYPE_MESSAGE
    if is_message and field.message_type.GetOptions().map_entry:
        _mutate_map(getattr(message, name), field.message_type, chance)
    elif field.is_repeated:
        _mutate_list(getattr(message, name), field, chance)
    elif chance.random() < 0.1:
        message.ClearField(name)
    elif not is_message:
        setattr(message, name, _value(field, getattr(message, name), chance))
    elif chance.random() < 0.1:
        getattr(message, name).SetInParent()
    elif getattr(message, name).DESCRIPTOR.fields:
        _mutate(getattr(message, name), chance)


def _mutate_list(values: Any, field: FieldDescriptor, chance: random.Random) -> None:
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    match chance.choice(("change", "change", "repeat", "remove", "add")):
        case "change" if len(values) and is_message:
            _mutate(chance.choice(values), chance)
        case "change" if len(values):
            values[chance.randrange(len(values))] = _value(field, values[0], chance)
        case "repeat" if len(values):
            values.extend([chance.choice(values)])
        case "remove" if len(values):
            del values[chance.randrange(len(values))]
        case _ if is_message:
            values.add()
        case _:
            values.append(_value(field, None, chance))


def _mutate_map(values: Any, entry: Any, chance: random.Random) -> None:
    if values and chance.random() < 0.3:
        del values[chance.choice(list(values))]
    else:
        key, value = (_value(entry.fields_by_name[name], None, chance) for name in ("key", "value"))
        values[key] = value


def _value(field: FieldDescriptor, old: Any, chance: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_BYTES:
            return _packed(old or b"", chance)
        case FieldDescriptor.TYPE_STRING:
            return chance.choice(_TEXTS)
        case FieldDescriptor.TYPE_FLOAT:
            return chance.choice(_FLOATS)
        case FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.TYPE_INT32 | FieldDescriptor.TYPE_ENUM:
            return chance.choice(_INT32)
        case FieldDescriptor.TYPE_UINT64:
            return chance.choice(_UINT64)
    return chance.choice(_UINT32)


def _packed(old: bytes, chance: random.Random) -> bytes:
    """Packed numbers: one changed, some more or fewer, a torn one, or others."""
    number = struct.pack("<i", chance.choice(_INT32))
    place = 4 * chance.randrange(len(old) // 4 + 1)
    match chance.randrange(6):
        case 0:
            return old[:place] + number + old[place + 4 :]
        case 1:
            return old + number
        case 2:
            return old[:place]
        case 3:
            return old + b"\x01"
        case 4:
            return old + old
    return number * chance.randrange(5)
