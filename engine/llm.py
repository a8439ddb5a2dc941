"""The in-process API: a model as an object, with the same engine as the services and no network."""

import asyncio
import gc
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pydantic import ValidationError

from quire.engine.api.completion import Completion, join
from quire.engine.api.errors import Overloaded, StartupError, Unavailable
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.config import ExecutorConfig, SchedulerConfig, mistakes
from quire.engine.executor import Executor
from quire.engine.garbage import freeze_gc
from quire.engine.local_engine import LocalEngine
from quire.engine.model.source import resolve_model
from quire.engine.open_request import OpenRequest
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.text.detokenizer import load_tokenizer
from quire.engine.text.encoder import TextEncoder
from quire.engine.text.pieces import Pieces
from quire.engine.validation import token_array

# Prompts that are submitted before steps may begin.
_AT_ONCE: Final = 256
T = TypeVar("T")
Prompt = str | Sequence[int]
# What comes of a stream: a piece, the error that ended it, or None at the end.
_Update = Completion | Exception | None
DEFAULTS = SamplingParams()


class LLM:
    """A model that generates. Thread-safe; use it in a `with` block or close it.

    Every generating method takes priority and cache options, and raises `RequestError` for a request that is
    refused or fails.

    Args:
        model: Hugging Face folder or hub id; None: the demo model.
        scheduler: how steps are filled.
        settings: further fields of `ExecutorConfig`, such as dtype="float32" or num_blocks=512.

    Raises:
        StartupError: the model or a setting will not do.
    """

    def __init__(self, model: str | None = None, *, scheduler: SchedulerConfig | None = None, **settings: Any) -> None:
        try:
            config = ExecutorConfig(model=model, **settings)
        except ValidationError as error:
            raise StartupError("; ".join(f"{each.setting}: {each.reason}" for each in mistakes(error))) from error
        self.tokenizer = load_tokenizer(resolve_model(model))
        # Prompts that wait lie in this process anyway.
        self._encoder = TextEncoder(self.tokenizer, max_pending_bytes=None)
        executor = Executor(config)
        self._lock, self._is_closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quire-llm", daemon=True)
        self._thread.start()
        self._engine = self._call(_engine(executor, scheduler or SchedulerConfig()))
        freeze_gc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs and frees the executor's thread; harmless if closed already."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ending.result()
        finally:
            self._encoder.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            gc.unfreeze()

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        params: SamplingParams = DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Completion]:
        """The whole answers, in the order of the prompts.

        Args:
            prompts: a text, or a list whose entries are texts or lists of token ids.
        """
        return self._call(self._complete_all([prompts] if isinstance(prompts, str) else prompts, params, options))

    def generate_stream(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Generator[Completion, None, None]:
        """The answer in pieces, as it is made; closing the iterator ends the request."""
        updates: queue.SimpleQueue[_Update] = queue.SimpleQueue()
        running = self._start(self._follow_into(prompt, params, options, updates.put))
        try:
            while (piece := _piece(updates.get())) is not None:
                yield piece
        finally:
            running.cancel()

    async def generate_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Completion:
        """The whole answer; cancelling the task ends the request. For any event loop."""
        return await asyncio.wrap_future(self._start(self._complete(prompt, params, options)))

    async def generate_stream_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Completion, None]:
        """The answer in pieces, as it is made; closing the iterator ends the request. For any event loop."""
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[_Update]()

        def put(what: _Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, what)

        running = self._start(self._follow_into(prompt, params, options, put))
        try:
            while (piece := _piece(await updates.get())) is not None:
                yield piece
        finally:
            running.cancel()

    def statistics(self) -> SchedulerStatistics:
        """Counts of waiting and running sequences and cached blocks now, and of tokens reused so far."""
        return self._call(_statistics(self._engine))

    async def _end(self) -> None:
        try:
            await self._engine.stop()
        finally:
            # Callers that still wait get an error before the loop ends.
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise Unavailable("this LLM is closed")

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = self._start(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()  # what an interrupt of this thread leaves; nothing otherwise

    async def _tokens(self, prompt: Prompt) -> Int32Array:
        limits = self._engine.limits
        if isinstance(prompt, str):
            return await self._encoder.encode(prompt, max_model_len=limits.max_model_len)
        return token_array(prompt, limits)

    async def _follow(self, request: OpenRequest) -> AsyncGenerator[Completion, None]:
        try:
            async for piece in Pieces(request, self.tokenizer).follow():
                yield piece
        finally:
            self._engine.close(request)

    async def _follow_into(
        self, prompt: Prompt, params: SamplingParams, options: RequestOptions, put: Callable[[_Update], None]
    ) -> None:
        """Every piece, then None, or the error that ended it."""
        try:
            async for piece in self._follow(self._engine.submit(await self._tokens(prompt), params, options)):
                put(piece)
        except Exception as error:
            put(error)
        else:
            put(None)

    async def _complete(self, prompt: Prompt, params: SamplingParams, options: RequestOptions) -> Completion:
        return await self._join(self._engine.submit(await self._tokens(prompt), params, options))

    async def _join(self, request: OpenRequest) -> Completion:
        request.expect_end()
        return join([piece async for piece in self._follow(request)])

    async def _complete_all(
        self, prompts: Sequence[Prompt], params: SamplingParams, options: RequestOptions
    ) -> list[Completion]:
        """All at once, as far as the waiting queue takes them; the first that fails ends the others."""
        opened: list[OpenRequest] = []
        answers: list[asyncio.Task[Completion]] = []
        earlier = iter(answers)
        try:
            for prompt in prompts:
                opened.append(await self._submit(await self._tokens(prompt), params, options, earlier))
                answers.append(asyncio.create_task(self._join(opened[-1])))
                if len(answers) % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            return await asyncio.gather(*answers)
        finally:
            for answer in answers:
                answer.cancel()
            # One that was cancelled before it began has closed nothing.
            for request in opened:
                self._engine.close(request)

    async def _submit(
        self, token_ids: Int32Array, params: SamplingParams, options: RequestOptions, earlier: Iterator[Awaitable[Any]]
    ) -> OpenRequest:
        """Submits a request as soon as the waiting queue has room; the end of an earlier request may make room."""
        while True:
            try:
                return self._engine.submit(token_ids, params, options)
            except Overloaded:
                answer = next(earlier, None)
                if answer is None:
                    raise
            await answer


async def _engine(executor: Executor, config: SchedulerConfig) -> LocalEngine:
    return LocalEngine(executor, config)


async def _statistics(engine: LocalEngine) -> SchedulerStatistics:
    return engine.statistics


def _piece(updates: _Update) -> Completion | None:
    if isinstance(updates, Exception):
        raise updates
    return updates
