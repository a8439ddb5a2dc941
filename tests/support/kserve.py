"""Tensors of the Open Inference Protocol for tests."""

from typing import Any

from quire.kserve import open_inference_pb2 as pb

_DATATYPES = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES", bytes: "BYTES"}
_FIELDS = {"BOOL": "bool_contents", "INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


def input_tensor(name: str, values: Any) -> pb.ModelInferRequest.InferInputTensor:
    """A tensor of one dimension with typed contents."""
    datatype = _DATATYPES[type(values[0])]
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[len(values)])
    elements = [value.encode() if isinstance(value, str) else value for value in values]
    getattr(tensor.contents, _FIELDS[datatype]).extend(elements)
    return tensor
