"""Tensors of the Open Inference Protocol, from messages and into them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from quire.engine.api.errors import InvalidRequest
from quire.kserve import open_inference_pb2 as pb

# Of one tensor: more than any input may have.
MAX_ELEMENTS: Final = 8192
_MAX_DIMENSIONS: Final = 8
_BYTES: Final = "BYTES"
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a datatype is stored: by numpy's name in raw contents, and in which field of typed ones."""

    numpy: str
    field: str


_KINDS: Final = MappingProxyType(
    {
        "BOOL": _Kind("?", "bool_contents"),
        "INT8": _Kind("<i1", "int_contents"),
        "INT16": _Kind("<i2", "int_contents"),
        "INT32": _Kind("<i4", "int_contents"),
        "INT64": _Kind("<i8", "int64_contents"),
        "UINT8": _Kind("<u1", "uint_contents"),
        "UINT16": _Kind("<u2", "uint_contents"),
        "UINT32": _Kind("<u4", "uint_contents"),
        "UINT64": _Kind("<u8", "uint64_contents"),
        "FP32": _Kind("<f4", "fp32_contents"),
        "FP64": _Kind("<f8", "fp64_contents"),
        _BYTES: _Kind("", "bytes_contents"),
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor whose elements are Python's.

    Attributes:
        shape: sizes; their product is the number of elements.
        elements: in row-major order; of BYTES each is `bytes`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Sequence[Any]


def read_tensors(request: pb.ModelInferRequest) -> dict[str, Tensor]:
    """The inputs of a request by name.

    Raises:
        InvalidRequest: one is given twice, or its shape, datatype and contents contradict each other.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest("raw_input_contents", len(raw), f"must be none, or one for each of {len(request.inputs)}")
    tensors: dict[str, Tensor] = {}
    for index, message in enumerate(request.inputs):
        if message.name in tensors:
            raise InvalidRequest(message.name, "a second one", "must be given once")
        tensors[message.name] = _read(message, raw[index] if raw else None)
    return tensors


def add_tensor(response: pb.ModelInferResponse, tensor: Tensor) -> None:
    """Appends an output and its raw contents."""
    response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    if tensor.datatype == _BYTES:
        data = b"".join(_LENGTH.pack(len(each)) + each for each in tensor.elements)
    else:
        data = np.array(tensor.elements, _KINDS[tensor.datatype].numpy).tobytes()
    response.raw_output_contents.append(data)


def _read(message: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    name, shape = message.name, tuple(message.shape)
    for parameter in message.parameters:
        raise InvalidRequest(f"{name}.parameters", parameter, "must be empty; there is no shared memory here")
    if len(shape) > _MAX_DIMENSIONS or any(not 0 <= size <= MAX_ELEMENTS for size in shape):
        raise InvalidRequest(f"{name}.shape", shape, f"must be at most {_MAX_DIMENSIONS} sizes of 0 to {MAX_ELEMENTS}")
    if (size := prod(shape)) > MAX_ELEMENTS:
        raise InvalidRequest(f"{name}.shape", shape, f"must be at most {MAX_ELEMENTS} elements")
    if (kind := _KINDS.get(message.datatype)) is None:
        raise InvalidRequest(f"{name}.datatype", message.datatype, f"must be one of {', '.join(_KINDS)}")
    contents = _only_contents(message, kind)
    if raw is None:
        elements = contents
    elif contents:
        raise InvalidRequest(f"{name}.contents", len(contents), "must be empty beside raw_input_contents")
    elif message.datatype == _BYTES:
        elements = _split(name, raw)
    else:
        elements = _unpack(name, raw, kind)
    if len(elements) != size:
        raise InvalidRequest(f"{name}.contents", len(elements), f"must be {size} elements, as of shape {list(shape)}")
    return Tensor(name, message.datatype, shape, elements)


def _only_contents(message: pb.ModelInferRequest.InferInputTensor, kind: _Kind) -> Sequence[Any]:
    """The typed contents, which no other type may have beside them."""
    for field, _ in message.contents.ListFields():
        if field.name != kind.field:
            limit = f"must be empty for {message.datatype}, which has {kind.field}"
            raise InvalidRequest(f"{message.name}.contents.{field.name}", "some", limit)
    elements: Sequence[Any] = getattr(message.contents, kind.field)
    return elements


def _unpack(name: str, raw: bytes, kind: _Kind) -> list[Any]:
    dtype = np.dtype(kind.numpy)
    if len(raw) % dtype.itemsize or len(raw) > MAX_ELEMENTS * dtype.itemsize:
        limit = f"must be a multiple of {dtype.itemsize} bytes, for at most {MAX_ELEMENTS} elements"
        raise InvalidRequest(f"{name}.raw_input_contents", f"{len(raw)} bytes", limit)
    elements: list[Any] = np.frombuffer(raw, dtype).tolist()
    return elements


def _split(name: str, raw: bytes) -> list[bytes]:
    """Elements of BYTES, each behind its length."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= MAX_ELEMENTS:
        end = at + _LENGTH.size
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, at)[0]
        if end > len(raw) or end - at < _LENGTH.size:
            limit = "must be elements with their lengths as uint32 in front"
            raise InvalidRequest(f"{name}.raw_input_contents", f"{len(raw)} bytes", limit)
        elements.append(raw[at + _LENGTH.size : end])
        at = end
    return elements
