"""quire.v1.InferenceService: the protocol's messages to and from the frontend's one request path."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

import grpc

from quire.engine.api.completion import Completion, join
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import RequestOptions
from quire.engine.api.pooling import Pooling
from quire.engine.api.version import __version__
from quire.engine.beam_search_validation import validate_beam_search
from quire.engine.open_request import OpenRequest
from quire.engine.text.embedding import embedding_params
from quire.protos.beam_search import BEAM_SEARCH, answers_to_proto
from quire.protos.convert import (
    ADAPTER,
    CACHE,
    POOLING,
    PROMPT,
    SAMPLING,
    completion_to_proto,
    embedding_to_proto,
    trace_from_proto,
)
from quire.services.frontend.beam_search import run_search
from quire.services.frontend.call import UNTRACED, Call, Calls, Operation, rpc
from quire.services.frontend.caller_trace import caller_trace
from quire.services.frontend.inference import Inference
from quire.services.frontend.merge import merged
from quire.services.frontend.multiplex import Multiplex
from quire.services.frontend.siblings import ASKED_BY_SIBLING, Siblings
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

_Request: TypeAlias = pb.GenerateRequest | pb.BeamSearchRequest | pb.EmbedRequest
_GENERATE: Final = rpc("quire.v1.InferenceService/Generate")
_GENERATE_STREAM: Final = rpc("quire.v1.InferenceService/GenerateStream")
_GENERATE_MANY: Final = rpc("quire.v1.InferenceService/GenerateMany")
_BEAM_SEARCH: Final = rpc("quire.v1.InferenceService/BeamSearch")
_EMBED: Final = rpc("quire.v1.InferenceService/Embed", "embeddings")


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """What clients call over gRPC.

    Args:
        inference: does the work.
        siblings: the other workers, who may have the request that a call is about; None: there are none.
        calls: begins each.
    """

    def __init__(self, inference: Inference, siblings: Siblings | None = None, calls: Calls = UNTRACED) -> None:
        self._inference = inference
        self._siblings = siblings or Siblings()
        self._calls = calls

    async def Generate(
        self,
        request: pb.GenerateRequest,
        context: Any,  # the stubs' type for its callbacks fits no function
    ) -> pb.GenerateResponse:
        with self._begin(_GENERATE, request, context) as call:
            opened = await self._open(request, call, whole=True)
            # Not before gRPC has sent the answer.
            context.add_done_callback(lambda _: self._close(opened))
            parts: list[list[Completion]] = [[] for _ in opened]
            async with aclosing(merged([self._inference.follow(each) for each in opened])) as pieces:
                async for index, piece in pieces:
                    parts[index].append(piece)
            response, *others = (completion_to_proto(join(each), pb.GenerateResponse) for each in parts)
            response.others.extend(others)
            return response

    async def GenerateStream(
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateStreamResponse],
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        with self._begin(_GENERATE_STREAM, request, context) as call:
            opened = await self._open(request, call)
            try:
                async with aclosing(merged([self._inference.follow(each) for each in opened])) as pieces:
                    async for index, piece in pieces:
                        response = completion_to_proto(piece, pb.GenerateStreamResponse)
                        response.index = index
                        yield response
            finally:
                self._close(opened)

    async def GenerateMany(
        self,
        request_iterator: AsyncIterator[pb.GenerateManyRequest],
        context: grpc.aio.ServicerContext[pb.GenerateManyRequest, pb.GenerateManyResponse],
    ) -> AsyncIterator[pb.GenerateManyResponse]:
        begin = partial(self._begin, _GENERATE_MANY, context=context)
        async with aclosing(Multiplex(self._inference, begin, self._open_one).run(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def BeamSearch(
        self,
        request: pb.BeamSearchRequest,
        context: grpc.aio.ServicerContext[pb.BeamSearchRequest, pb.BeamSearchResponse],
    ) -> pb.BeamSearchResponse:
        with self._begin(_BEAM_SEARCH, request, context) as call:
            params = BEAM_SEARCH.from_proto(request.sampling, "sampling")
            validate_beam_search(params)
            prompt, field = _input(request)
            options = _timed_options(request, call)
            prepared = await self._inference.prepare(prompt, params.sampling, field=field, options=options)
            return answers_to_proto(await run_search(self._inference, prepared, params, request.request_id))

    async def Embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[pb.EmbedRequest, pb.EmbedResponse]
    ) -> pb.EmbedResponse:
        with self._begin(_EMBED, request, context) as call:
            pooling = POOLING.take("pooling", request.pooling) or Pooling.LAST
            prompt, field = _input(request)
            opened = await self._inference.submit(
                prompt,
                embedding_params(pooling),
                field=field,
                request_id=request.request_id,
                options=replace(_options(request), trace=call.trace),
                whole=True,
            )
            try:
                normalize = request.normalize if request.HasField("normalize") else True
                embedding = await self._inference.embedding(opened, normalize)
            finally:
                self._inference.close(opened)
            return embedding_to_proto(embedding)

    async def Tokenize(
        self,
        request: pb.TokenizeRequest,
        context: grpc.aio.ServicerContext[pb.TokenizeRequest, pb.TokenizeResponse],
    ) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=await self._inference.encode(request.text, "text"))

    async def Detokenize(
        self,
        request: pb.DetokenizeRequest,
        context: grpc.aio.ServicerContext[pb.DetokenizeRequest, pb.DetokenizeResponse],
    ) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=await self._inference.decode(request.token_ids, "token_ids"))

    async def Abort(
        self, request: pb.AbortRequest, context: grpc.aio.ServicerContext[pb.AbortRequest, pb.AbortResponse]
    ) -> pb.AbortResponse:
        found = self._inference.abort(request.request_id)
        if not _is_asked_by_sibling(context):
            # Clients know of no workers, so two of these may have requests of one id.
            found |= await self._siblings.abort(request, _authorization(context))
        return pb.AbortResponse(found=found)

    async def GetModel(
        self,
        request: pb.GetModelRequest,
        context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.GetModelResponse],
    ) -> pb.GetModelResponse:
        limits = self._inference.limits()
        return pb.GetModelResponse(
            name=self._inference.model,
            fingerprint=self._inference.state.fingerprint,
            vocab_size=limits.vocab_size,
            max_model_len=limits.max_model_len,
            eos_token_ids=self._inference.state.eos_token_ids,
        )

    async def GetServer(
        self,
        request: pb.GetServerRequest,
        context: grpc.aio.ServicerContext[pb.GetServerRequest, pb.GetServerResponse],
    ) -> pb.GetServerResponse:
        state = self._inference.state
        elsewhere = 0 if _is_asked_by_sibling(context) else await self._siblings.num_requests(_authorization(context))
        return pb.GetServerResponse(
            version=__version__,
            num_executors=state.num_executors,
            num_blocks=state.num_blocks,
            block_size=state.block_size,
            num_requests=self._inference.num_requests + elsewhere,
        )

    async def LoadAdapter(
        self,
        request: pb.LoadAdapterRequest,
        context: grpc.aio.ServicerContext[pb.LoadAdapterRequest, pb.LoadAdapterResponse],
    ) -> pb.LoadAdapterResponse:
        adapter = await self._inference.load_adapter(request.name, request.path, replace=request.replace)
        return pb.LoadAdapterResponse(adapter=ADAPTER.to_proto(adapter))

    async def UnloadAdapter(
        self,
        request: pb.UnloadAdapterRequest,
        context: grpc.aio.ServicerContext[pb.UnloadAdapterRequest, pb.UnloadAdapterResponse],
    ) -> pb.UnloadAdapterResponse:
        await self._inference.unload_adapter(request.name)
        return pb.UnloadAdapterResponse()

    async def ListAdapters(
        self,
        request: pb.ListAdaptersRequest,
        context: grpc.aio.ServicerContext[pb.ListAdaptersRequest, pb.ListAdaptersResponse],
    ) -> pb.ListAdaptersResponse:
        adapters = sorted(self._inference.adapters.values(), key=lambda adapter: adapter.name)
        return pb.ListAdaptersResponse(adapters=map(ADAPTER.to_proto, adapters))

    def _begin(self, operation: Operation, request: _Request, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """The call that a request makes; its trace is the message's, or else that of the call's metadata."""
        trace = None if isinstance(request, pb.EmbedRequest) else trace_from_proto(request.trace)
        trace = trace or caller_trace(context.invocation_metadata() or ())
        return self._calls.begin(operation, request.request_id, trace)

    async def _open(self, request: pb.GenerateRequest, call: Call, whole: bool = False) -> list[OpenRequest]:
        """Checks a request and opens it for each of its answers."""
        prompt, field = _input(request)
        options = _timed_options(request, call)
        params = SAMPLING.from_proto(request.sampling, "sampling")
        prepared = await self._inference.prepare(prompt, params, field=field, options=options)
        num_choices = request.n if request.HasField("n") else 1
        return self._inference.open_choices([(prepared, request.request_id)], num_choices, whole=whole)

    async def _open_one(self, request: pb.GenerateRequest, call: Call) -> OpenRequest:
        if request.HasField("n") and request.n != 1:
            raise InvalidRequest("n", request.n, "must be 1 in GenerateMany, which takes any number of requests")
        (opened,) = await self._open(request, call)
        return opened

    def _close(self, opened: Iterable[OpenRequest]) -> None:
        for each in opened:
            self._inference.close(each)


def _input(request: _Request) -> tuple[str | Sequence[int], str]:
    """The prompt, and its name for refusals."""
    match request.WhichOneof("input"):
        case "text":
            return request.text, "text"
        case "token_ids":
            return request.token_ids.ids, "token_ids"
    raise InvalidRequest("input", None, "must be text or token_ids")


def _options(request: _Request) -> RequestOptions:
    cache, prompt = CACHE.from_proto(request.cache, "cache"), PROMPT.from_proto(request.prompt, "prompt")
    return RequestOptions(request.priority, cache, prompt, adapter=request.adapter)


def _timed_options(request: pb.GenerateRequest | pb.BeamSearchRequest, call: Call) -> RequestOptions:
    """With deadline and trace."""
    return replace(
        _options(request),
        trace=call.trace,
        deadline_ms=request.deadline_ms if request.HasField("deadline_ms") else None,
    )


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> list[tuple[str, str | bytes]]:
    """What the caller shows who it is with, for siblings that act on its behalf."""
    return [(key, value) for key, value in context.invocation_metadata() or () if key == "authorization"]


def _is_asked_by_sibling(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    return any(key == ASKED_BY_SIBLING for key, _ in context.invocation_metadata() or ())
