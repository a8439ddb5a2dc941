"""Frozen dataclasses to protocol messages and back, by the names of their fields.

A `MessageCodec` is made once for a dataclass and the message that carries it. A field goes over as it is unless the
codec is told how. None is a field that is not set, and a field that is not set is the dataclass's default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

from quire.engine.api.errors import InvalidRequest

ObjectT = TypeVar("ObjectT")
MessageT = TypeVar("MessageT", bound=Message)


class FieldCodec(Protocol):
    """How one field goes over."""

    def put(self, message: Any, name: str, value: Any) -> None:
        """Sets the field of a message; raises ValueError or TypeError for a value that does not fit."""

    def take(self, path: str, value: Any) -> Any:
        """The dataclass's value of the field's; raises `InvalidRequest`, which names the path."""


class Scalar:
    """A number, a text, or bytes as they are."""

    def put(self, message: Any, name: str, value: Any) -> None:
        setattr(message, name, value)

    def take(self, path: str, value: Any) -> Any:
        return value


class Repeated:
    """A tuple of scalars."""

    def put(self, message: Any, name: str, value: Any) -> None:
        getattr(message, name).extend(value)

    def take(self, path: str, value: Any) -> Any:
        return tuple(value)


class Pairs:
    """A map, as a tuple of its pairs in the order of their keys."""

    def put(self, message: Any, name: str, value: Any) -> None:
        getattr(message, name).update(dict(value))

    def take(self, path: str, value: Any) -> Any:
        return tuple(sorted(value.items()))


EnumT = TypeVar("EnumT", bound=IntEnum)


class Enumerated(Generic[EnumT]):
    """An enumeration whose values equal those of the protocol.

    Args:
        kind: its class.
    """

    def __init__(self, kind: type[EnumT]) -> None:
        self._kind = kind

    def put(self, message: Any, name: str, value: IntEnum) -> None:
        setattr(message, name, int(value))

    def take(self, path: str, value: int) -> EnumT:
        try:
            return self._kind(value)
        except ValueError:
            allowed = ", ".join(str(int(each)) for each in self._kind)
            raise InvalidRequest(path, value, f"must be one of {allowed}") from None


class Packed:
    """An array as little-endian bytes, which cost one copy; the array that is taken is read-only.

    Args:
        dtype: of an entry, in the message.
        columns: of the array; one column is a flat array.
    """

    def __init__(self, dtype: str = "<i4", columns: int = 1) -> None:
        self._dtype = np.dtype(dtype)
        self._columns = columns

    def put(self, message: Any, name: str, value: NDArray[Any]) -> None:
        setattr(message, name, value.astype(self._dtype, copy=False).tobytes())

    def take(self, path: str, value: bytes) -> NDArray[Any]:
        size = self._dtype.itemsize * self._columns
        if len(value) % size:
            raise InvalidRequest(path, f"{len(value)} bytes", f"must be a multiple of {size} bytes")
        array = np.frombuffer(value, self._dtype)
        return array if self._columns == 1 else array.reshape(-1, self._columns)


class Nested:
    """A message of its own.

    Args:
        codec: of that message.
    """

    def __init__(self, codec: "MessageCodec[Any, Any]") -> None:
        self._codec = codec

    def put(self, message: Any, name: str, value: Any) -> None:
        getattr(message, name).CopyFrom(self._codec.to_proto(value))

    def take(self, path: str, value: Any) -> Any:
        return self._codec.from_proto(value, path)


class NestedList:
    """A tuple of messages; alike."""

    def __init__(self, codec: "MessageCodec[Any, Any]") -> None:
        self._codec = codec

    def put(self, message: Any, name: str, value: Sequence[Any]) -> None:
        getattr(message, name).extend(map(self._codec.to_proto, value))

    def take(self, path: str, value: Any) -> Any:
        return tuple(self._codec.from_proto(each, f"{path}[{index}]") for index, each in enumerate(value))


class MessageCodec(Generic[ObjectT, MessageT]):
    """A frozen dataclass and the message whose fields are named alike.

    Args:
        kind: the dataclass.
        message: the message.
        codecs: of the fields that neither a scalar, a tuple of scalars nor pairs will do for; None: the field does
            not travel.
    """

    def __init__(
        self, kind: type[ObjectT], message: type[MessageT], codecs: Mapping[str, FieldCodec | None] | None = None
    ) -> None:
        self._kind: Callable[..., ObjectT] = kind
        self._message = message
        named = codecs or {}
        descriptors = message.DESCRIPTOR.fields_by_name
        self._codecs: dict[str, FieldCodec] = {}
        # What the dataclass has no default for is what the message says; None of a scalar that may be unset.
        self._required: list[str] = []
        self._unset: list[str] = []
        dataclass: Any = kind
        for field in fields(dataclass):
            codec = named[field.name] if field.name in named else _codec_for(descriptors[field.name])
            if codec is not None:
                self._codecs[field.name] = codec
                if field.default is MISSING and field.default_factory is MISSING:
                    may_be_unset = descriptors[field.name].has_presence and not descriptors[field.name].message_type
                    (self._unset if may_be_unset else self._required).append(field.name)

    def to_proto(self, value: ObjectT, path: str = "") -> MessageT:
        """
        Args:
            path: the message's name, for refusals.

        Raises:
            InvalidRequest: a value does not fit its field, such as a negative number without sign.
        """
        message = self._message()
        for name, codec in self._codecs.items():
            found = getattr(value, name)
            if found is not None:
                try:
                    codec.put(message, name, found)
                except (ValueError, TypeError) as error:
                    descriptor = self._message.DESCRIPTOR.fields_by_name[name]
                    raise _does_not_fit(_join(path, name), found, descriptor, error) from error
        return message

    def from_proto(self, message: MessageT, path: str = "") -> ObjectT:
        """Inverse of `to_proto`.

        Args:
            path: the message's name, for refusals.

        Raises:
            InvalidRequest: a field cannot be what it stands for.
        """
        found = {field.name: value for field, value in message.ListFields() if field.name in self._codecs}
        for name in self._required:
            if name not in found:
                found[name] = getattr(message, name)
        taken = {name: self._codecs[name].take(_join(path, name), value) for name, value in found.items()}
        return self._kind(**dict.fromkeys(self._unset, None) | taken)


# What the whole numbers of a message can be.
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def _codec_for(descriptor: Any) -> FieldCodec:
    if descriptor.message_type is not None:
        if descriptor.message_type.GetOptions().map_entry:
            return Pairs()
        raise TypeError(f"{descriptor.full_name} is a message; name its codec")
    return Repeated() if descriptor.is_repeated else Scalar()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _does_not_fit(field: str, value: object, descriptor: Any, error: Exception) -> InvalidRequest:
    if descriptor.type in _RANGES and isinstance(error, ValueError):
        low, high = _RANGES[descriptor.type]
        return InvalidRequest(field, value, f"must be {low} to {high}")
    return InvalidRequest(field, value, f"does not fit the protocol's field ({error})")
