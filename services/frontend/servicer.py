"""quire.v1.InferenceService over the link to the scheduler."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

import grpc

from quire.clients.convert import finish_to_proto, sampling_from_proto
from quire.engine.completion import Completion, join
from quire.engine.errors import InvalidRequest, Unavailable
from quire.engine.open_request import OpenRequest
from quire.engine.request import Int32Array
from quire.engine.text.pieces import pieces
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.validation import ServingLimits, complete, token_array, validate
from quire.engine.version import __version__
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

MAX_REQUEST_ID_BYTES = 128
# Shorter texts are tokenized faster than a thread is woken.
LONG_TEXT = 2_000


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """What clients call.

    Args:
        model: the model's name, for GetModel.
        tokenizer: of the model's folder.
        link: to the scheduler.
    """

    def __init__(self, model: str, tokenizer: Tokenizer, link: SchedulerLink) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._link = link
        self._is_draining = False

    def drain(self) -> None:
        """Takes no more requests; those that run go on."""
        self._is_draining = True

    async def Generate(  # noqa: N802
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse],
    ) -> pb.GenerateResponse:
        answer = join([piece async for piece in self._generate(request)])
        return pb.GenerateResponse(
            request_id=answer.request_id,
            text=answer.text,
            token_ids=answer.token_ids,
            finish=finish_to_proto(answer),
        )

    async def GenerateStream(  # noqa: N802
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateStreamResponse],
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        async for piece in self._generate(request):
            yield pb.GenerateStreamResponse(
                request_id=piece.request_id,
                text=piece.text,
                token_ids=piece.token_ids,
                finish=finish_to_proto(piece),
            )

    async def Tokenize(  # noqa: N802
        self,
        request: pb.TokenizeRequest,
        context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse],
    ) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=await self._encode(request.text))

    async def Detokenize(  # noqa: N802
        self,
        request: pb.DetokenizeRequest,
        context: grpc.aio.ServicerContext[pb.DetokenizeRequest, pb.DetokenizeResponse],
    ) -> pb.DetokenizeResponse:
        token_ids = token_array(request.token_ids, self._link.limits())
        return pb.DetokenizeResponse(text=self._tokenizer.decode(token_ids))

    async def Abort(  # noqa: N802
        self, request: pb.AbortRequest, context: grpc.aio.ServicerContext[pb.AbortRequest, pb.AbortResponse]
    ) -> pb.AbortResponse:
        opened = self._link.find(request.request_id)
        if opened is not None:
            self._link.abort(opened)
        return pb.AbortResponse(found=opened is not None)

    async def GetModel(  # noqa: N802
        self,
        request: pb.GetModelRequest,
        context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse],
    ) -> pb.GetModelResponse:
        limits = self._link.limits()
        return pb.GetModelResponse(
            name=self._model,
            fingerprint=self._link.state.fingerprint,
            vocab_size=limits.vocab_size,
            max_model_len=limits.max_model_len,
            eos_token_ids=self._link.state.eos_token_ids,
        )

    async def GetServer(  # noqa: N802
        self,
        request: pb.GetServerRequest,
        context: grpc.aio.ServicerContext[pb.GetServerRequest, pb.GetServerResponse],
    ) -> pb.GetServerResponse:
        state = self._link.state
        return pb.GetServerResponse(
            version=__version__,
            num_executors=state.num_executors,
            num_blocks=state.num_blocks,
            block_size=state.block_size,
            num_requests=self._link.num_requests,
        )

    async def _generate(self, request: pb.GenerateRequest) -> AsyncGenerator[Completion, None]:
        opened = await self._submit(request)
        try:
            async for piece in pieces(opened, self._tokenizer):
                yield piece
        finally:
            self._link.close(opened)

    async def _submit(self, request: pb.GenerateRequest) -> OpenRequest:
        """Validates a request and opens it.

        Raises:
            RequestError: it is refused.
        """
        if self._is_draining:
            raise Unavailable("this frontend is shutting down")
        if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
            raise InvalidRequest("request_id", request.request_id, f"must be at most {MAX_REQUEST_ID_BYTES} bytes")
        limits = self._link.limits()
        prompt = await self._prompt(request, limits)
        params = complete(sampling_from_proto(request.sampling), len(prompt), limits)
        validate(prompt, params, limits, field=request.WhichOneof("input") or "input")
        return self._link.submit(request.request_id or uuid.uuid4().hex, prompt, params)

    async def _prompt(self, request: pb.GenerateRequest, limits: ServingLimits) -> Int32Array:
        match request.WhichOneof("input"):
            case "text":
                return await self._encode(request.text)
            case "token_ids":
                return token_array(request.token_ids.ids, limits)
        raise InvalidRequest("input", None, "must be text or token_ids")

    async def _encode(self, text: str) -> Int32Array:
        if len(text) < LONG_TEXT:
            return self._tokenizer.encode(text)
        return await asyncio.to_thread(self._tokenizer.encode, text)
