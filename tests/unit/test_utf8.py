"""Payloads that protobuf refuses, encoded by hand."""

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from quire.internal.v1 import scheduler_pb2
from quire.services.common.utf8 import find_broken_utf8
from quire.v1 import inference_pb2 as pb

REQUEST = pb.GenerateRequest.DESCRIPTOR
BROKEN = b"a\xff\xfeb"
# The second is what protobuf in pure Python raises.
REFUSALS = (DecodeError, UnicodeDecodeError)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited field; short numbers and lengths only."""
    assert number < 16
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


CASES = [
    (field(2, BROKEN), ("text", BROKEN)),
    (field(1, b"name") + field(2, BROKEN), ("text", BROKEN)),
    (field(1, BROKEN) + field(2, BROKEN), ("request_id", BROKEN)),
    (field(4, field(7, b"good") + field(7, BROKEN)), ("sampling.stop", BROKEN)),
    # A character cut in its middle, an overlong form, a surrogate.
    (field(2, "é".encode()[:1]), ("text", b"\xc3")),
    (field(2, b"\xc0\x80"), ("text", b"\xc0\x80")),
    (field(2, b"\xed\xa0\x80"), ("text", b"\xed\xa0\x80")),
]


@pytest.mark.parametrize(("payload", "expected"), CASES)
def test_the_broken_field_is_named(payload: bytes, expected: tuple[str, bytes]) -> None:
    with pytest.raises(REFUSALS):
        pb.GenerateRequest.FromString(payload)
    assert find_broken_utf8(REQUEST, payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        field(2, "gut, Füße".encode()),
        field(15, BROKEN),  # unknown field
        field(3, field(1, b"\xff\x01")),  # packed numbers
        b"\x08\xff\x01",  # a string field's number with a number in it
        b"\x12\x7f",  # cut short
        b"\xff" * 20,
    ],
)
def test_nothing_is_found_where_nothing_is_broken(payload: bytes) -> None:
    assert find_broken_utf8(REQUEST, payload) is None


def test_bytes_fields_may_hold_anything() -> None:
    payload = field(2, field(3, BROKEN))
    assert find_broken_utf8(scheduler_pb2.ConnectRequest.DESCRIPTOR, payload) is None


def test_repeated_messages_and_maps_are_walked() -> None:
    payload = field(2, field(1, b"")) + field(2, field(2, BROKEN))
    assert find_broken_utf8(scheduler_pb2.ConnectRequest.DESCRIPTOR, payload) == (
        "submissions.request_id",
        BROKEN,
    )
    entry = field(1, BROKEN)
    assert find_broken_utf8(Struct.DESCRIPTOR, field(1, entry)) == ("fields.key", BROKEN)


def test_endless_nesting_ends() -> None:
    payload = b""
    for _ in range(2000):  # Struct in Value in Struct, each with its length
        for number in (5, 2, 1):
            size, length = len(payload), b""
            while size >= 128:
                length, size = length + bytes([size & 127 | 128]), size >> 7
            payload = bytes([number << 3 | 2]) + length + bytes([size]) + payload
    assert find_broken_utf8(Struct.DESCRIPTOR, payload) is None


@pytest.mark.parametrize("descriptor", [REQUEST, scheduler_pb2.ConnectRequest.DESCRIPTOR, Struct.DESCRIPTOR])
@given(payload=st.binary(max_size=64))
def test_arbitrary_bytes_never_raise(descriptor: Descriptor, payload: bytes) -> None:
    found = find_broken_utf8(descriptor, payload)
    assert found is None or found[1] in payload


@given(parts=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 7]), st.binary(max_size=20)), max_size=5))
def test_finds_something_whenever_protobuf_refuses_well_formed_fields(parts: list[tuple[int, bytes]]) -> None:
    payload = b"".join(field(number, data) for number, data in parts if number in (1, 2))
    try:
        pb.GenerateRequest.FromString(payload)
    except REFUSALS:
        assert find_broken_utf8(REQUEST, payload) is not None
    else:
        assert find_broken_utf8(REQUEST, payload) is None
