"""inference.GRPCInferenceService: the Open Inference Protocol over the frontend's one request path."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final

import grpc

from quire.engine.api.completion import join
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import RequestOptions
from quire.engine.open_request import OpenRequest
from quire.kserve import open_inference_pb2 as pb
from quire.kserve import open_inference_pb2_grpc
from quire.services.frontend.call import UNTRACED, Call, Calls, Operation, rpc
from quire.services.frontend.caller_trace import caller_trace
from quire.services.frontend.inference import Inference
from quire.services.frontend.kserve.answer import FINAL, MODEL_VERSION, Part, infer_response
from quire.services.frontend.kserve.job import Job, read_job
from quire.services.frontend.kserve.metadata import check_model, model_config, model_metadata, server_metadata
from quire.services.frontend.kserve.statistics import RequestCounters
from quire.services.frontend.kserve.stream import InferStream
from quire.services.frontend.merge import merged

# The stubs' type for its callbacks fits no function.
_Context = Any
_INFER: Final = rpc("inference.GRPCInferenceService/ModelInfer")
_STREAM_INFER: Final = rpc("inference.GRPCInferenceService/ModelStreamInfer")


class KServeServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """What clients of Triton and KServe call.

    Args:
        inference: does the work.
        calls: begins each.
    """

    def __init__(self, inference: Inference, calls: Calls = UNTRACED) -> None:
        self._inference = inference
        self._calls = calls
        self._counters = RequestCounters()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: _Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._inference.not_serving_reason is None)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:
        is_served = request.name == self._inference.model and request.version in ("", MODEL_VERSION)
        return pb.ModelReadyResponse(ready=is_served and self._inference.not_serving_reason is None)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: _Context) -> pb.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: _Context) -> pb.ModelMetadataResponse:
        check_model(self._inference, request.name, request.version)
        return model_metadata(request.name)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: _Context) -> pb.ModelConfigResponse:
        check_model(self._inference, request.name, request.version)
        return pb.ModelConfigResponse(config=model_config(request.name))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: _Context
    ) -> pb.ModelStatisticsResponse:
        check_model(self._inference, request.name or self._inference.model, request.version)
        report = self._counters.report(self._inference.model, MODEL_VERSION)
        return pb.ModelStatisticsResponse(model_stats=[report])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: _Context
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise InvalidRequest(
                "repository_name", request.repository_name, "must be left out; there is one repository"
            )
        reason = self._inference.not_serving_reason
        if reason and request.ready:
            return pb.RepositoryIndexResponse()
        state = "UNAVAILABLE" if reason else "READY"
        entry = pb.RepositoryIndexResponse.ModelIndex(
            name=self._inference.model, version=MODEL_VERSION, state=state, reason=reason or ""
        )
        return pb.RepositoryIndexResponse(models=[entry])

    async def ModelInfer(self, request: pb.ModelInferRequest, context: _Context) -> pb.ModelInferResponse:
        with self._begin(_INFER, request, context) as call, self._counters.request() as outcome:
            job = self._job(request)
            if job.is_stream:
                raise InvalidRequest("stream", True, "must be false in ModelInfer; ModelStreamInfer streams")
            opened = await self._open(job, call)
            # Not before gRPC has sent the answer.
            context.add_done_callback(lambda _: self._close(opened))
            parts = [await self._whole(job, index, each) for index, each in enumerate(opened)]
            outcome.num_prompts = len(parts)
            return infer_response(request, job.outputs, parts)

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        answer = partial(self._responses, context=context)
        async with aclosing(InferStream(self._inference, answer).run(request_iterator)) as responses:
            async for response in responses:
                yield response

    def _begin(self, operation: Operation, request: pb.ModelInferRequest, context: _Context) -> Call:
        return self._calls.begin(operation, request.id, caller_trace(context.invocation_metadata() or ()))

    async def _responses(
        self, request: pb.ModelInferRequest, context: _Context
    ) -> AsyncGenerator[pb.ModelInferResponse, None]:
        """Prompt by prompt: each whole, or in pieces."""
        with self._begin(_STREAM_INFER, request, context) as call, self._counters.request() as outcome:
            job = self._job(request)
            opened = await self._open(job, call)
            num_left = len(opened)
            try:
                parts = merged([self._parts(job, index, each) for index, each in enumerate(opened)])
                async with aclosing(parts):
                    async for _, part in parts:
                        num_left -= part.completion.finish_reason is not None
                        response = infer_response(request, job.outputs, [part])
                        response.parameters[FINAL].bool_param = num_left == 0
                        if num_left == 0:
                            outcome.num_prompts = len(opened)
                        yield response
            finally:
                self._close(opened)

    def _job(self, request: pb.ModelInferRequest) -> Job:
        adapter = check_model(self._inference, request.model_name, request.model_version)
        self._inference.admit()
        return replace(read_job(request, self._inference.state.eos_token_ids), adapter=adapter)

    async def _open(self, job: Job, call: Call) -> list[OpenRequest]:
        """Opens a request for each prompt, or none."""
        options, prepared = RequestOptions(trace=call.trace, adapter=job.adapter), []
        for prompt in job.prompts:
            try:
                each = await self._inference.prepare(prompt.text, prompt.params, field=prompt.field, options=options)
            except InvalidRequest as error:
                raise prompt.renamed(error) from error
            prepared.append((each, ""))
        return self._inference.open_all(prepared, whole=not job.is_stream)

    def _close(self, opened: list[OpenRequest]) -> None:
        for each in opened:
            self._inference.close(each)

    async def _parts(self, job: Job, index: int, opened: OpenRequest) -> AsyncGenerator[Part, None]:
        """The pieces of one prompt's answer; a single one unless it streams."""
        if not job.is_stream:
            yield await self._whole(job, index, opened)
            return
        cumulative = 0.0
        async with aclosing(self._inference.follow(opened)) as pieces:
            async for piece in pieces:
                cumulative += sum(each.logprob for each in piece.logprobs)
                yield Part(index, piece, "", len(opened.prompt), cumulative)

    async def _whole(self, job: Job, index: int, opened: OpenRequest) -> Part:
        answer = join([piece async for piece in self._inference.follow(opened)])
        prefix = job.prompts[index].text if job.includes_prompt else ""
        return Part(index, answer, prefix, len(opened.prompt), sum(each.logprob for each in answer.logprobs))
