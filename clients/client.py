"""A client of `quire.v1.InferenceService` for ordinary, blocking code."""

import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Self

from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.errors import may_pass, not_ready, translated
from quire.clients.resumption import resumed, with_seed
from quire.engine.api.adapter import Adapter
from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import QuireError
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.pooling import Pooling
from quire.engine.api.prompt import Prompt
from quire.engine.api.sampling import SamplingParams
from quire.protos.beam_search import answers_from_proto, beam_search_request
from quire.protos.channel import CHANNEL_OPTIONS, RETRYING_OPTIONS
from quire.protos.convert import (
    ADAPTER,
    abort_request,
    completion_from_proto,
    completions_from_proto,
    detokenize_request,
    embed_request,
    embedding_from_proto,
    generate_request,
    load_adapter_request,
    tokenize_request,
    unload_adapter_request,
)
from quire.protos.credentials import PLAIN, Credentials, open_sync_channel
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

DEFAULTS = SamplingParams()
BEAM_DEFAULTS = BeamSearchParams()
RETRY_SECONDS = 0.2


class Client:
    """One connection to a frontend; may be shared between threads. Use it in a `with` block or close it.

    Every method raises `InvalidRequest`, `Overloaded`, `Unavailable` or, for other failures, `QuireError`.

    Args:
        address: "host:port" of a frontend.
        timeout: seconds that a call may take from beginning to end; None sets no limit.
        credentials: how the frontend is known, and the key that it is shown; default: plain text, no key.
        retries: ask again when a frontend stops or is lost: for what has not begun, and for streams, which go on where
            they broke off.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = None,
        credentials: Credentials = PLAIN,
        retries: bool = True,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._retries = retries
        self._metadata = credentials.metadata
        self._channel = open_sync_channel(address, RETRYING_OPTIONS if retries else CHANNEL_OPTIONS, credentials)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what runs and disconnects."""
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams = DEFAULTS,
        *,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> Completion:
        """The whole answer to a text or to token ids; an interrupt cancels it on the server."""
        request = generate_request(prompt, params, request_id, options)
        call = self._stub.Generate.future(request, timeout=self._timeout, metadata=self._metadata)
        with translated(call.cancel):
            return completion_from_proto(call.result())

    def generate_choices(
        self,
        prompt: Prompt,
        n: int,
        params: SamplingParams = DEFAULTS,
        *,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Completion]:
        """Several whole answers to one prompt, which is computed once; answer i has the seed plus i."""
        request = generate_request(prompt, params, request_id, options, n)
        call = self._stub.Generate.future(request, timeout=self._timeout, metadata=self._metadata)
        with translated(call.cancel):
            return completions_from_proto(call.result())

    def generate_stream(
        self,
        prompt: Prompt,
        params: SamplingParams = DEFAULTS,
        *,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> Generator[Completion, None, None]:
        """The answer as it is made; the first `next` sends the request, closing the iterator cancels it."""
        if self._retries:
            params = with_seed(params)
        request = generate_request(prompt, params, request_id, options)

        def ask(timeout: float | None) -> Generator[Completion, None, None]:
            call = self._stub.GenerateStream(request, timeout=timeout, metadata=self._metadata)
            with translated(call.cancel):
                for message in call:
                    yield completion_from_proto(message)

        yield from resumed(ask, self._timeout) if self._retries else ask(self._timeout)

    def beam_search(
        self,
        prompt: Prompt,
        params: BeamSearchParams = BEAM_DEFAULTS,
        *,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Completion]:
        """The most likely answers that beam search finds, the best first."""
        request = beam_search_request(prompt, params, request_id, options)
        call = self._stub.BeamSearch.future(request, timeout=self._timeout, metadata=self._metadata)
        with translated(call.cancel):
            return answers_from_proto(call.result())

    def embed(
        self,
        prompt: Prompt,
        pooling: Pooling = Pooling.LAST,
        *,
        normalize: bool = True,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> Embedding:
        """The embedding of a text or of token ids; `normalize` divides it by its Euclidean norm."""
        request = embed_request(prompt, pooling, request_id, options, normalize)
        call = self._stub.Embed.future(request, timeout=self._timeout, metadata=self._metadata)
        with translated(call.cancel):
            return embedding_from_proto(call.result())

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, with the special tokens that the model's folder asks for."""
        request = tokenize_request(text)
        with translated():
            return tuple(self._stub.Tokenize(request, timeout=self._timeout, metadata=self._metadata).token_ids)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        request = detokenize_request(token_ids)
        with translated():
            return self._stub.Detokenize(request, timeout=self._timeout, metadata=self._metadata).text

    def abort(self, request_id: str) -> bool:
        """Ends a running request; False if this frontend runs none of that name."""
        with translated():
            return self._stub.Abort(abort_request(request_id), timeout=self._timeout, metadata=self._metadata).found

    def load_adapter(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Has the server take a low-rank adapter for requests to come, which name it as `RequestOptions.adapter`.

        Args:
            path: a PEFT folder, as the executors find it.
            replace: in place of an adapter of this name.
        """
        request = load_adapter_request(name, path, replace)
        with translated():
            response = self._stub.LoadAdapter(request, timeout=self._timeout, metadata=self._metadata)
        return ADAPTER.from_proto(response.adapter)

    def unload_adapter(self, name: str) -> None:
        """From now on no request may name the adapter; those that have go on."""
        request = unload_adapter_request(name)
        with translated():
            self._stub.UnloadAdapter(request, timeout=self._timeout, metadata=self._metadata)

    def adapters(self) -> list[Adapter]:
        """Adapters that requests may name."""
        with translated():
            response = self._stub.ListAdapters(pb.ListAdaptersRequest(), timeout=self._timeout, metadata=self._metadata)
        return [ADAPTER.from_proto(adapter) for adapter in response.adapters]

    def model(self) -> pb.GetModelResponse:
        """The model that is served: name, fingerprint, vocabulary size, context length and end tokens."""
        with translated():
            return self._stub.GetModel(pb.GetModelRequest(), timeout=self._timeout, metadata=self._metadata)

    def server(self) -> pb.GetServerResponse:
        """How it is served: version, executors, the largest pool, open requests."""
        with translated():
            return self._stub.GetServer(pb.GetServerRequest(), timeout=self._timeout, metadata=self._metadata)

    def ready(self, timeout: float) -> None:
        """Waits until the server says that it is SERVING.

        Raises:
            Unavailable: it did not within `timeout` seconds; the message says what was seen last.
        """
        health = health_pb2_grpc.HealthStub(self._channel)
        deadline = time.monotonic() + timeout
        seen = "no connection"
        while (left := deadline - time.monotonic()) > 0:
            call = health.Watch(health_pb2.HealthCheckRequest(), timeout=left, wait_for_ready=True)
            try:
                with translated(call.cancel):
                    for response in call:
                        if response.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                        seen = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
            except QuireError as error:
                if not may_pass(error):
                    raise
            # The server went away in the middle: give it a moment before asking again.
            time.sleep(min(RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
        raise not_ready(self.address, timeout, seen)
