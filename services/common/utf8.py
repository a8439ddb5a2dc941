"""Names the field at fault where protobuf refuses a message for text that is not UTF-8.

Protobuf's own error does not say which field it was. The same bytes parse as a message without fields. Every field is
then unknown and keeps its raw value, which is walked along the real descriptor.
"""

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

# Protobuf itself refuses deeper messages.
_MAX_DEPTH = 100


def find_broken_utf8(descriptor: Descriptor, payload: bytes) -> tuple[str, bytes] | None:
    """The first string in a payload that is not UTF-8: its path, such as "sampling.stop", and its bytes.

    None if there is no such string, or the payload is not a protobuf message at all.
    """
    return _find(descriptor, payload, _MAX_DEPTH)


def _find(descriptor: Descriptor, payload: bytes, depth: int) -> tuple[str, bytes] | None:
    if depth == 0:
        return None
    try:
        unknown = UnknownFieldSet(Empty.FromString(payload))
    except DecodeError:
        return None
    for index in range(len(unknown)):
        entry = unknown[index]
        field = descriptor.fields_by_number.get(entry.field_number)
        if field is None or not isinstance(entry.data, bytes):
            continue
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(entry.data):
            return field.name, entry.data
        inner = _find(field.message_type, entry.data, depth - 1) if field.message_type else None
        if inner is not None:
            return f"{field.name}.{inner[0]}", inner[1]
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
