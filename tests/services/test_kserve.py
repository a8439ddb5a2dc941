"""The Open Inference Protocol of a running frontend: Triton's client as it is, and messages that are wrong."""

import asyncio
import json
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.kserve import open_inference_pb2 as pb
from quire.kserve import open_inference_pb2_grpc
from support.kserve import input_tensor
from support.stacks import RunningStack, until_nothing_is_open

TESTS = Path(__file__).parents[1]
PROMPTS = ["def mean(values):\n", "import", "class Stack:\n    def "]
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.frontend, timeout=60) as connected:
        yield connected


@pytest.fixture
async def stub(stack: RunningStack) -> AsyncIterator[open_inference_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(stack.frontend) as channel:
        yield open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


async def triton(call: str, stack: RunningStack, client: AsyncClient) -> Any:
    """What Triton's client finds, from a process of its own."""
    command = [sys.executable, "-m", "support.triton_calls", call, stack.frontend, (await client.model()).name]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=TESTS, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def wanted(client: AsyncClient) -> list[str]:
    """The texts of the prompts by the frontend's own API."""
    return [(await client.generate(prompt, GREEDY)).text for prompt in PROMPTS]


async def test_what_the_service_says_of_itself(stack: RunningStack, client: AsyncClient) -> None:
    found = await triton("about", stack, client)
    name = (await client.model()).name
    assert (found["live"], found["ready"], found["model_ready"], found["other_ready"]) == (True, True, True, False)
    assert {"text_input", "max_tokens", "stream", "sampling_parameters"} < set(found["inputs"])
    assert (found["server"], found["decoupled"], found["index"]) == ("quire", True, [[name, "READY"]])
    method = "inference.GRPCInferenceService/RepositoryModelLoad"
    assert found["load"] == ["StatusCode.UNIMPLEMENTED", f"{method}: there is no such method here"]


async def test_infer(stack: RunningStack, client: AsyncClient) -> None:
    found = await triton("infer", stack, client)
    texts = await wanted(client)
    assert (found["id"], found["batch"], found["alone"]) == ("mine", texts, texts)
    for total, rows in zip(found["cum_log_probs"], found["output_log_probs"], strict=True):
        assert len(rows) == 1
        assert len(rows[0]) <= 12
        assert total == [pytest.approx(sum(rows[0]), abs=1e-4)]
    # Whole texts of the vLLM backend begin with the prompt, unless they are asked not to.
    assert found["vllm"] == [PROMPTS[0] + texts[0]]
    assert found["inference_count"] >= 7


async def test_async_infer(stack: RunningStack, client: AsyncClient) -> None:
    texts = await wanted(client)
    assert await triton("infer_async", stack, client) == {"callback": texts, "asyncio": texts}


async def test_stream(stack: RunningStack, client: AsyncClient) -> None:
    found = await triton("stream", stack, client)
    texts = await wanted(client)
    for name, text in {"0": texts[0], "1": texts[1], "2": texts[2], "vllm": texts[0]}.items():
        pieces = found["pieces"][name]
        assert "".join(piece for _, piece, _ in pieces) == text
        assert len(pieces) > 1
        assert [is_final for *_, is_final in pieces] == [False] * (len(pieces) - 1) + [True]
    batch = found["pieces"]["batch"]
    assert sorted(batch)[0][0] == 0
    assert {row: text for row, text, _ in batch} == dict(enumerate(texts))
    assert [is_final for *_, is_final in batch] == [False, False, True]
    assert found["errors"] == ["sampling_parameters.top_p: must be above 0 and at most 1, got 7.0"]


async def test_a_stream_that_is_left_frees_its_blocks(stack: RunningStack, client: AsyncClient) -> None:
    assert len((await triton("cancel", stack, client))["first"]) == 1
    await stack.assert_settled()
    await until_nothing_is_open(client)


def infer_request(model: str, **inputs: object) -> pb.ModelInferRequest:
    tensors = [input_tensor(name, value) for name, value in ({"text_input": ["def"]} | inputs).items()]
    return pb.ModelInferRequest(model_name=model, inputs=tensors)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"colour": [1]}, "inputs: must be among text_input, "),
        ({"embedding_bias_words": ["x"]}, "embedding_bias_words: is not supported here: must be b'', or left out, got"),
        ({"bad_words": ["x" * 10_000]}, "bad_words"),
        ({"min_tokens": [-1]}, "min_tokens: must be 0 to "),
        ({"beam_width": [2]}, "beam_width: is not supported here: must be 1, or left out, got 2"),
        ({"max_tokens": [-5]}, "max_tokens: must be "),
        ({"top_k": [-2]}, "top_k: must be 0 (keep all) to 2147483647, got -2"),
        ({"stop_words": ["x" * 300]}, "stop_words[0]: must be 1 to 256 bytes of UTF-8, got '"),
        ({"end_id": [2**31 - 1]}, "end_id[0]: must be 0 to "),
        ({"temperature": [True]}, "temperature.datatype: must be one of FP32, FP64, got 'BOOL'"),
        ({"max_tokens": [4, 4]}, "max_tokens.shape: must be [n, 1] or [1], got (2,)"),
        ({"stream": [True]}, "stream: must be false in ModelInfer; ModelStreamInfer streams, got True"),
        ({"text_input": [""]}, "text_input: must be at least 1 token, got 0"),
        ({"text_input": [b"\xff"]}, "text_input: must be valid UTF-8, got b'\\xff'"),
        ({"sampling_parameters": ["{"]}, "sampling_parameters: invalid JSON"),
        ({"sampling_parameters": ['{"n": 2}']}, "sampling_parameters.n: input should be 1 or '1', got 2"),
        ({"sampling_parameters": ['{"nn": 2}']}, "sampling_parameters.nn: there is no such field here; leave it out"),
        ({"sampling_parameters": ["{}"], "top_k": [1]}, "top_k: must be left out beside sampling_parameters"),
    ],
)
async def test_what_is_refused(
    client: AsyncClient,
    stub: open_inference_pb2_grpc.GRPCInferenceServiceStub,
    inputs: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(infer_request((await client.model()).name, **inputs), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(message)


async def test_another_model_is_not_found(
    client: AsyncClient, stub: open_inference_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(infer_request("other"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    name = (await client.model()).name
    assert caught.value.details() == f"model: must be {name!r}, the model served here, got 'other'"


def mangled(model: str, draw: random.Random) -> pb.ModelInferRequest:
    """A request with odd tensors."""
    request = infer_request(model, max_tokens=[2], stream=[False], stop_words=["a", "b"], top_p=[0.5], random_seed=[3])
    if draw.random() < 0.5:
        raw = [struct.pack("<I", 3) + b"def", struct.pack("<i", 2), b"\0", b"\1\0\0\0a\1\0\0\0b", bytes(4), bytes(8)]
        request.raw_input_contents.extend(raw)
        for each in request.inputs:
            each.ClearField("contents")
    for _ in range(draw.randrange(4)):
        each = draw.choice(request.inputs)
        match draw.randrange(6):
            case 0:
                each.shape.append(draw.choice((-1, 0, 1, 2, 2**62)))
            case 1:
                each.datatype = draw.choice(("INT64", "FP16", "BYTES", "", "BOOL"))
            case 2:
                each.contents.int_contents.append(draw.choice((-1, 0, 2**31 - 1)))
            case 3:
                each.contents.fp32_contents.append(draw.choice((float("nan"), float("inf"), -1.0)))
            case 4 if request.raw_input_contents:
                index = draw.randrange(len(request.raw_input_contents))
                request.raw_input_contents[index] = draw.randbytes(draw.randrange(12))
            case _:
                each.name = draw.choice(("text_input", "top_k", "end_id", "bad_words"))
    return request


def payload_of(request: pb.ModelInferRequest, draw: random.Random) -> bytes:
    """Of every fourth one byte is wrong."""
    payload = bytearray(request.SerializeToString())
    if draw.random() < 1 / 4:
        payload[draw.randrange(len(payload))] = draw.randrange(256)
    return bytes(payload)


async def test_odd_tensors_are_refused_or_served(stack: RunningStack, client: AsyncClient) -> None:
    """Over both methods; a traceback would be UNKNOWN, or "unexpected" in a stream."""
    draw = random.Random(5)
    model = (await client.model()).name
    async with grpc.aio.insecure_channel(stack.frontend) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        codes = []
        for _ in range(20):
            payloads = [payload_of(mangled(model, draw), draw) for _ in range(20)]
            codes += await asyncio.gather(*(infer(payload, timeout=60).code() for payload in payloads))
        allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= set(codes) <= allowed
        requests = [mangled(model, draw) for _ in range(200)]
        for index, request in enumerate(requests):
            request.id = f"{index}"
        call = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), timeout=60)
        responses = [response async for response in call]
    assert {response.infer_response.id for response in responses} == {request.id for request in requests}
    errors = [response.error_message for response in responses if response.error_message]
    assert 0 < len(errors) < len(requests)
    assert not any(error.startswith("unexpected") for error in errors)


async def test_http_health_and_metadata(stack: RunningStack, client: AsyncClient) -> None:
    name = (await client.model()).name
    async with aiohttp.ClientSession(f"http://{stack.http}") as http:

        async def get(path: str) -> tuple[int, Any]:
            async with http.get(path) as response:
                return response.status, await response.json()

        assert await get("/v2/health/live") == (200, {"live": True})
        assert await get("/v2/health/ready") == (200, {"ready": True})
        assert await get(f"/v2/models/{name}/ready") == (200, {"ready": True})
        refusal = {"error": f"model: must be {name!r}, the model served here, got 'a/b'"}
        assert [await get("/v2/models/a/b/ready"), await get("/v2/models/a/b")] == [(404, refusal)] * 2
        status, server = await get("/v2")
        assert (status, server["name"], "statistics" in server["extensions"]) == (200, "quire", True)
        status, model = await get(f"/v2/models/{name}")
        assert (status, model["name"], model["versions"]) == (200, name, ["1"])
        assert model["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [-1, 1]}
