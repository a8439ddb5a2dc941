"""quire.v1.InferenceService over the link to the scheduler."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

from quire.clients.convert import sampling_from_proto
from quire.engine.errors import InvalidRequest, Unavailable
from quire.engine.request import Int32Array
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.validation import ServingLimits, complete, token_array, validate
from quire.engine.version import __version__
from quire.services.frontend.generation import Delta, deltas
from quire.services.frontend.open_request import OpenRequest
from quire.services.frontend.scheduler_link import SchedulerLink

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
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
    ) -> pb.GenerateResponse:
        opened = await self._submit(request)
        response = pb.GenerateResponse(request_id=opened.request_id)
        pieces = []
        try:
            async for delta in deltas(opened, self._tokenizer):
                pieces.append(delta.text)
                response.token_ids.extend(delta.token_ids)
                if (finish := _finish(opened, delta, len(response.token_ids))) is not None:
                    response.finish.CopyFrom(finish)
        finally:
            self._link.close(opened)
        response.text = "".join(pieces)
        return response

    async def GenerateStream(  # noqa: N802
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateStreamResponse],
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        opened = await self._submit(request)
        num_tokens = 0
        try:
            async for delta in deltas(opened, self._tokenizer):
                num_tokens += len(delta.token_ids)
                yield pb.GenerateStreamResponse(
                    request_id=opened.request_id,
                    text=delta.text,
                    token_ids=delta.token_ids,
                    finish=_finish(opened, delta, num_tokens),
                )
        finally:
            self._link.close(opened)

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse]
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
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse]
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


def _finish(opened: OpenRequest, delta: Delta, num_tokens: int) -> pb.Finish | None:
    if delta.finish is None:
        return None
    usage = pb.Usage(
        prompt_tokens=len(opened.prompt), cached_tokens=opened.cached_tokens or 0, generated_tokens=num_tokens
    )
    finish = pb.Finish(reason=pb.FinishReason.ValueType(delta.finish.reason), usage=usage)
    if delta.stop is not None:
        finish.stop = delta.stop
    elif delta.finish.stop_token_id is not None:
        finish.stop_token_id = delta.finish.stop_token_id
    return finish
