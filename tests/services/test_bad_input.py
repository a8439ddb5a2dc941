"""What can never be served is refused with the field, the value and the limit, and harms nobody."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
from google.protobuf.message import Message

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.protos.channel import MAX_REQUEST_BYTES
from quire.services.frontend.inference import MAX_DETOKENIZE_IDS, MAX_TOKENIZE_BYTES
from quire.v1 import inference_pb2 as pb
from support.stacks import RunningStack

GENERATE = "/quire.v1.InferenceService/Generate"
GREEDY = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    """After each test the next request must work."""
    async with AsyncClient(stack.frontend, timeout=120) as connected:
        yield connected
        answer = await connected.generate([5, 6, 7], replace(GREEDY, ignore_eos=True))
        assert len(answer.token_ids) == GREEDY.max_tokens


async def refusal(stack: RunningStack, payload: bytes, method: str = GENERATE) -> tuple[grpc.StatusCode, str]:
    """Sends bytes as they are."""
    async with grpc.aio.insecure_channel(stack.frontend) as channel:
        call = channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(payload, timeout=120)
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": -1}, "sampling.max_tokens: must be at least 0, got -1"),
        ({"max_tokens": -5}, "sampling.max_tokens: must be at least 0, got -5"),
        ({"temperature": math.nan}, "sampling.temperature: must be 0 (greedy) to 100, got nan"),
        ({"temperature": -1.0}, "sampling.temperature: must be 0 (greedy) to 100, got -1.0"),
        ({"temperature": math.inf}, "sampling.temperature: must be 0 (greedy) to 100, got inf"),
        ({"top_p": 0.0}, "sampling.top_p: must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "sampling.top_p: must be above 0 and at most 1, got 1.5"),
        ({"top_k": -2}, "sampling.top_k: must be 0 (keep all) to 2147483647, got -2"),
        ({"min_p": 2.0}, "sampling.min_p: must be 0 to 1, got 2.0"),
        ({"presence_penalty": 2.5}, "sampling.presence_penalty: must be -2 to 2, got 2.5"),
        ({"frequency_penalty": -math.inf}, "sampling.frequency_penalty: must be -2 to 2, got -inf"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty: must be above 0 and at most 10, got 0.0"),
        ({"logprobs": 21}, "sampling.logprobs: must be 0 to 20, got 21"),
        ({"logprobs": -1}, "sampling.logprobs: must be 0 to 20, got -1"),
        ({"stop": ("x",) * 17}, "sampling.stop: must be at most 16 strings, got 17"),
        ({"stop": ("x", "")}, "sampling.stop[1]: must be 1 to 256 bytes of UTF-8, got ''"),
        ({"stop_token_ids": (1,) * 65}, "sampling.stop_token_ids: must be at most 64 tokens, got 65"),
    ],
)
async def test_sampling_out_of_range(client: AsyncClient, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([5, 6, 7], replace(GREEDY, **changes))  # type: ignore[arg-type]
    assert str(caught.value) == message


ODD_NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, 2.0, -2.0, 10.0, 0.5, 1.0)
FUZZED = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


def odd_request(draw: random.Random) -> bytes:
    """A message with odd values, of which every third also has a byte that is wrong."""
    sampling = pb.SamplingParams(max_tokens=4, ignore_eos=True)
    for name in draw.sample(FUZZED, draw.randint(1, 3)):
        setattr(sampling, name, draw.choice((*ODD_NUMBERS, draw.uniform(-3, 12))))
    if draw.random() < 1 / 3:
        sampling.logprobs = draw.choice((-(2**31), -1, 0, 1, 20, 21, 2**31 - 1))
    payload = bytearray(pb.GenerateRequest(text="def", sampling=sampling).SerializeToString())
    if draw.random() < 1 / 3:
        payload[draw.randrange(5, len(payload))] = draw.randrange(256)
    return bytes(payload)


async def test_odd_values_are_refused_or_served(stack: RunningStack, client: AsyncClient) -> None:
    """Together, so that what one asks for would show in the others, of which one is as ever."""
    draw = random.Random(4)
    expected = await client.generate("def", GREEDY)
    async with grpc.aio.insecure_channel(stack.frontend) as channel:

        async def ask(payload: bytes) -> grpc.StatusCode:
            call = channel.unary_unary(GENERATE)(payload, timeout=120)
            return await call.code()

        codes: list[grpc.StatusCode] = []
        # Fewer at a time than may wait.
        for _ in range(10):
            asking = [ask(odd_request(draw)) for _ in range(15)]
            *found, unharmed = await asyncio.gather(*asking, client.generate("def", GREEDY))
            assert unharmed.token_ids == expected.token_ids
            codes += found
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    assert 20 < codes.count(grpc.StatusCode.OK) < 130


@pytest.mark.parametrize("prompt", ["", []], ids=["text", "ids"])
async def test_an_empty_prompt(client: AsyncClient, prompt: str | list[int]) -> None:
    field = "text" if prompt == "" else "token_ids"
    with pytest.raises(InvalidRequest, match=rf"^{field}: must be at least 1 token, got 0$"):
        await client.generate(prompt, GREEDY)


async def test_no_prompt(stack: RunningStack, client: AsyncClient) -> None:
    code, message = await refusal(stack, pb.GenerateRequest(sampling=pb.SamplingParams()).SerializeToString())
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "input: must be text or token_ids, got None")


async def test_a_token_outside_the_vocabulary(client: AsyncClient) -> None:
    size = (await client.model()).vocab_size
    limit = f"must be 0 to {size - 1}"
    for token_id in (size, 2**32 - 1):
        with pytest.raises(InvalidRequest) as caught:
            await client.generate([5, token_id], GREEDY)
        assert str(caught.value) == f"token_ids[1]: {limit}, got {token_id}"
        with pytest.raises(InvalidRequest) as caught:
            await client.detokenize([token_id])
        assert str(caught.value) == f"token_ids[0]: {limit}, got {token_id}"
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([5], replace(GREEDY, stop_token_ids=(7, size)))
    assert str(caught.value) == f"sampling.stop_token_ids[1]: {limit}, got {size}"


async def test_a_prompt_longer_than_the_model(client: AsyncClient) -> None:
    length = (await client.model()).max_model_len
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([5] * length, GREEDY)
    limit = f"must be at most {length - 1} tokens (the model's context of {length}, less one)"
    assert str(caught.value) == f"token_ids: {limit}, got {length}"


async def test_a_text_that_cannot_fit(client: AsyncClient) -> None:
    length = (await client.model()).max_model_len
    for text in ("a" * 8_000_000, "word " * 1_600_000):
        with pytest.raises(InvalidRequest) as caught:
            await client.generate(text, GREEDY)
        limit = f"must be at most {length - 1} tokens (the model's context of {length}, less one)"
        assert str(caught.value).startswith(f"text: {limit}, got '{len(text)} bytes, which make at least ")


@pytest.mark.parametrize("text", ["a" * 10_000_000, "word " * 3_000_000, "é中" * 2_000_000], ids=["a", "word", "é中"])
async def test_a_request_of_too_many_bytes(client: AsyncClient, text: str) -> None:
    for call in (client.generate(text, GREEDY), anext(client.generate_stream(text, GREEDY)), client.tokenize(text)):
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert str(caught.value).startswith(f"request: must be at most {MAX_REQUEST_BYTES} bytes, got 1")


async def test_more_than_is_tokenized_and_detokenized(client: AsyncClient) -> None:
    longest = "é" * (MAX_TOKENIZE_BYTES // 2)
    # Longer than any prompt: this limit is its own.
    assert len(await client.tokenize(longest)) > (await client.model()).max_model_len
    limit = f"must be at most {MAX_TOKENIZE_BYTES} bytes of UTF-8"
    for text, size in ((longest + "a", MAX_TOKENIZE_BYTES + 1), ("a" * 8_000_000, 8_000_000)):
        with pytest.raises(InvalidRequest) as caught:
            await client.tokenize(text)
        assert str(caught.value) == f"text: {limit}, got {size}"
    assert len(await client.detokenize([5] * MAX_DETOKENIZE_IDS)) > 0
    with pytest.raises(InvalidRequest) as caught:
        await client.detokenize([5] * (MAX_DETOKENIZE_IDS + 1))
    limit = f"must be at most {MAX_DETOKENIZE_IDS} token ids"
    assert str(caught.value) == f"token_ids: {limit}, got {MAX_DETOKENIZE_IDS + 1}"


async def test_more_tokens_than_the_model_takes(client: AsyncClient) -> None:
    length = (await client.model()).max_model_len
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([5] * 10, replace(GREEDY, max_tokens=length))
    limit = f"must be at most {length - 10} behind a prompt of 10 tokens (the model's context is {length})"
    assert str(caught.value) == f"sampling.max_tokens: {limit}, got {length}"


async def test_more_tokens_than_the_pool_takes(client: AsyncClient) -> None:
    server, model = await client.server(), await client.model()
    size = server.num_blocks * server.block_size
    assert size + 10 <= model.max_model_len, "the pool must be the tighter limit"
    with pytest.raises(InvalidRequest) as caught:
        await client.generate([5] * 10, replace(GREEDY, max_tokens=size))
    assert str(caught.value) == (
        f"sampling.max_tokens: with a prompt of 10 tokens this needs {server.num_blocks + 1} KV blocks of "
        f"{server.block_size} tokens, and the largest pool has {server.num_blocks}; must be at most "
        f"{size + 1 - 10}, got {size}"
    )


async def test_a_request_id_that_is_too_long(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match=r"^request_id: must be at most 128 bytes, got 'ü"):
        await client.generate([5], GREEDY, request_id="ü" * 65)


async def test_a_request_id_that_is_taken(client: AsyncClient) -> None:
    running = client.generate_stream([5], SamplingParams(max_tokens=1000, ignore_eos=True), request_id="mine")
    await anext(running)
    with pytest.raises(InvalidRequest, match=r"^request_id: must not be that of a running request, got 'mine'$"):
        await client.generate([5], GREEDY, request_id="mine")
    assert (await anext(running)).token_ids
    await running.aclose()


def with_broken_text(message: Message, text: str) -> bytes:
    """The message's bytes with a byte of `text` that UTF-8 does not know."""
    payload, part = message.SerializeToString(), text.encode()
    assert payload.count(part) == 1
    return payload.replace(part, b"\xff" + part[1:])


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_text_that_is_not_utf8(stack: RunningStack, client: AsyncClient, method: str) -> None:
    sampling = pb.SamplingParams(stop=["fine", "broken"])
    in_stop = with_broken_text(pb.GenerateRequest(text="hi", sampling=sampling), "broken")
    in_text = with_broken_text(pb.GenerateRequest(text="broken"), "broken")
    for payload, field in ((in_stop, "sampling.stop"), (in_text, "text")):
        code, message = await refusal(stack, payload, f"/quire.v1.InferenceService/{method}")
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message == f"{field}: must be valid UTF-8, got b'\\xffroken'"


@pytest.mark.parametrize(
    ("method", "kind"),
    [(GENERATE, "quire.v1.GenerateRequest"), ("/grpc.health.v1.Health/Watch", "grpc.health.v1.HealthCheckRequest")],
)
async def test_bytes_that_are_no_message(stack: RunningStack, client: AsyncClient, method: str, kind: str) -> None:
    code, message = await refusal(stack, b"\x0a\xff", method)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == f"request: must be a {kind} message, got b'\\n\\xff'"
