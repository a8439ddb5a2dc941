"""quire.v1.InferenceService."""

import time
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError

from quire.clients.bench.record import Record
from quire.clients.bench.target.base import INFO_SECONDS, Exchange, ServerInfo
from quire.clients.bench.workload.session import Prompt
from quire.clients.errors import translated
from quire.clients.multiplexer import Multiplexer
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.convert import generate_request
from quire.protos.credentials import PLAIN, Credentials, open_aio_channel
from quire.protos.status import code_name, readable
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

_METHOD = "/quire.v1.InferenceService/GenerateStream"


class GrpcTarget:
    """A Quire frontend.

    Args:
        address: "host:port".
        ignore_eos: go on past end tokens, so that every answer has the length that was asked for.
        temperature: 0 is greedy.
        timeout: seconds for one request.
        multiplex: all requests share one call.
        credentials: how the frontend is known, and what it is shown.
    """

    def __init__(
        self,
        address: str,
        ignore_eos: bool,
        temperature: float,
        timeout: float,
        multiplex: bool = False,
        credentials: Credentials = PLAIN,
    ) -> None:
        self._ignore_eos = ignore_eos
        self._temperature = temperature
        self._timeout = timeout
        self._channel = open_aio_channel(address, CHANNEL_OPTIONS, credentials)
        self._metadata = credentials.metadata
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._multiplexer = Multiplexer(self._stub, credentials.metadata) if multiplex else None
        # Without serializers: bytes go and come as they are.
        self._call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(_METHOD, None, None)

    async def info(self) -> ServerInfo:
        with translated():
            seconds = min(self._timeout, INFO_SECONDS)
            model = await self._stub.GetModel(pb.GetModelRequest(), timeout=seconds, metadata=self._metadata)
        return ServerInfo(model.name, model.vocab_size, model.max_model_len)

    def encode(self, prompt: Prompt, output_tokens: int) -> bytes:
        params = SamplingParams(temperature=self._temperature, max_tokens=output_tokens, ignore_eos=self._ignore_eos)
        return generate_request(prompt, params, "").SerializeToString()

    async def send(self, payload: bytes) -> Exchange:
        sent = time.perf_counter()
        parts: list[tuple[float, bytes]] = []
        try:
            async for part in self._responses(payload):
                parts.append((time.perf_counter(), part))
        except grpc.aio.AioRpcError as error:
            return Exchange(sent, time.perf_counter(), parts, error.code().name, readable(error.details() or ""))
        except QuireError as error:
            return Exchange(sent, time.perf_counter(), parts, code_name(error), str(error))
        return Exchange(sent, time.perf_counter(), parts)

    async def _responses(self, payload: bytes) -> AsyncIterator[bytes]:
        if self._multiplexer is None:
            async for part in self._call(payload, timeout=self._timeout, metadata=self._metadata):
                yield part
        else:
            async for response in self._multiplexer.stream(pb.GenerateRequest.FromString(payload), self._timeout):
                yield response.SerializeToString()

    def digest(self, exchange: Exchange) -> Record:
        arrivals: list[float] = []
        token_ids: list[int] = []
        usage: pb.Usage | None = None
        error, detail = exchange.error, exchange.detail
        try:
            for moment, part in exchange.parts:
                message = pb.GenerateStreamResponse.FromString(part)
                if message.token_ids:
                    arrivals.append(moment)
                    token_ids.extend(message.token_ids)
                if message.HasField("finish"):
                    usage = message.finish.usage
        except DecodeError as fault:
            error, detail = error or "broken stream", detail or str(fault)
        if error is None and (usage is None or not arrivals):
            error = "no tokens" if not arrivals else "no finish"
        usage = usage or pb.Usage()
        return Record(
            sent=exchange.sent,
            ended=exchange.ended,
            arrivals=tuple(arrivals),
            output_tokens=len(token_ids),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            error=error,
            detail=detail,
            token_ids=tuple(token_ids),
        )

    async def close(self) -> None:
        if self._multiplexer is not None:
            await self._multiplexer.close()
        await self._channel.close(None)
