"""Tensors of the Open Inference Protocol: typed and raw contents are the same; what contradicts itself is refused."""

import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.kserve.tensor import MAX_ELEMENTS, Tensor, add_tensor, read_tensors
from support.kserve import input_tensor

InferInputTensor = pb.ModelInferRequest.InferInputTensor


def raw_request(datatype: str, shape: list[int], data: bytes) -> pb.ModelInferRequest:
    tensor = InferInputTensor(name="x", datatype=datatype, shape=shape)
    return pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[data])


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("UINT16", [0, 65535]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("FP32", [0.5, -2.0]),
        ("FP64", [0.1, 1e300]),
        ("BYTES", [b"", b"\xff\0text"]),
    ],
)
def test_what_is_written_is_read(datatype: str, values: list[object]) -> None:
    response = pb.ModelInferResponse()
    add_tensor(response, Tensor("x", datatype, (1, 2), values))
    (output,), (raw,) = response.outputs, response.raw_output_contents
    found = read_tensors(raw_request(output.datatype, list(output.shape), raw))
    assert found == {"x": Tensor("x", datatype, (1, 2), values)}


def test_typed_contents() -> None:
    tensors = [input_tensor("a", [1, 2]), input_tensor("b", ["x"]), input_tensor("c", [0.5])]
    found = read_tensors(pb.ModelInferRequest(inputs=tensors))
    assert {name: (each.datatype, list(each.elements)) for name, each in found.items()} == {
        "a": ("INT32", [1, 2]),
        "b": ("BYTES", [b"x"]),
        "c": ("FP32", [0.5]),
    }


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (raw_request("INT32", [2], bytes(4)), "x.contents: must be 2 elements, as of shape [2], got 1"),
        (raw_request("INT32", [1], bytes(5)), "x.raw_input_contents: must be a multiple of 4 bytes"),
        (raw_request("INT32", [-1], bytes(4)), "x.shape: must be at most 8 sizes of 0 to 8192, got (-1,)"),
        (raw_request("INT32", [MAX_ELEMENTS] * 8, bytes(4)), "x.shape: must be at most 8192 elements"),
        (raw_request("FP16", [1], bytes(2)), "x.datatype: must be one of BOOL, INT8"),
        (raw_request("BYTES", [1], b"\4\0\0\0abc"), "x.raw_input_contents: must be elements with their lengths"),
        (raw_request("BYTES", [1], b"\4\0\0"), "x.raw_input_contents: must be elements with their lengths"),
        (raw_request("BYTES", [1], bytes(40_000)), "x.contents: must be 1 elements, as of shape [1], got 8193"),
        (pb.ModelInferRequest(inputs=[input_tensor("a", [1])] * 2), "a: must be given once"),
        (
            pb.ModelInferRequest(inputs=[input_tensor("a", [1])], raw_input_contents=[b"", b""]),
            "raw_input_contents: must be none, or one for each of 1, got 2",
        ),
        (
            pb.ModelInferRequest(inputs=[input_tensor("a", [1])], raw_input_contents=[bytes(4)]),
            "a.contents: must be empty beside raw_input_contents, got 1",
        ),
        (
            pb.ModelInferRequest(
                inputs=[InferInputTensor(name="a", datatype="INT64", contents={"int_contents": [1]}, shape=[1])]
            ),
            "a.contents.int_contents: must be empty for INT64, which has int64_contents",
        ),
        (
            pb.ModelInferRequest(inputs=[InferInputTensor(name="a", parameters={"shared_memory_region": {}})]),
            "a.parameters: must be empty; there is no shared memory here, got 'shared_memory_region'",
        ),
    ],
)
def test_what_is_refused(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tensors(request_)
    assert str(caught.value).startswith(message)


def test_random_bytes_of_text_are_read_or_refused() -> None:
    random = np.random.default_rng(3)
    outcomes = set()
    for _ in range(2000):
        data = random.choice((0, 0, 0, 0, 1, 2), random.integers(0, 16)).astype(np.uint8).tobytes()
        try:
            (tensor,) = read_tensors(raw_request("BYTES", [int(random.integers(0, 4))], data)).values()
            outcomes.add(len(tensor.elements))
        except InvalidRequest:
            outcomes.add(-1)
    assert outcomes >= {-1, 0, 1}
