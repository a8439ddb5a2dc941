"""The in-process API: a model as an object, with the same engine as the services and no network."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from quire.engine.completion import Completion, join
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.executor import Executor
from quire.engine.garbage import spare_what_is_there
from quire.engine.local_engine import LocalEngine
from quire.engine.model.source import resolve_model
from quire.engine.request import DEFAULT_OPTIONS, RequestOptions, SamplingParams
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.text.pieces import pieces
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.validation import token_array

# Prompts that are submitted before steps may begin.
_AT_ONCE: Final = 256
T = TypeVar("T")
Prompt = str | Sequence[int]
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
        config = ExecutorConfig(model=model, **settings)
        self.tokenizer = Tokenizer.load(resolve_model(model))
        executor = Executor(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quire-llm", daemon=True)
        self._thread.start()
        self._engine = self._call(_start(executor, scheduler or SchedulerConfig()))
        spare_what_is_there()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs and frees the executor's thread; harmless if closed already."""
        if self._loop.is_closed():
            return
        self._call(self._engine.stop())
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
        stream = self._stream(prompt, params, options)
        try:
            while (piece := self._call(_next(stream))) is not None:
                yield piece
        finally:
            self._call(stream.aclose())

    async def generate_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Completion:
        """The whole answer; cancelling the task ends the request. For any event loop."""
        return await self._await(self._complete(prompt, params, options))

    async def generate_stream_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Completion, None]:
        """The answer in pieces, as it is made; closing the iterator ends the request. For any event loop."""
        stream = self._stream(prompt, params, options)
        try:
            while (piece := await self._await(_next(stream))) is not None:
                yield piece
        finally:
            await self._await(stream.aclose())

    def statistics(self) -> SchedulerStatistics:
        """What waits, runs and is cached now, and what was reused so far."""
        return self._call(_statistics(self._engine))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def _stream(
        self, prompt: Prompt, params: SamplingParams, options: RequestOptions, whole: bool = False
    ) -> AsyncGenerator[Completion, None]:
        if isinstance(prompt, str):
            token_ids = self.tokenizer.encode(prompt)
        else:
            token_ids = token_array(prompt, self._engine.limits)
        request = self._engine.submit(token_ids, params, options)
        try:
            async for piece in pieces(request, self.tokenizer, whole):
                yield piece
        finally:
            self._engine.close(request)

    async def _complete(self, prompt: Prompt, params: SamplingParams, options: RequestOptions) -> Completion:
        return join([piece async for piece in self._stream(prompt, params, options, whole=True)])

    async def _complete_all(
        self, prompts: Sequence[Prompt], params: SamplingParams, options: RequestOptions
    ) -> list[Completion]:
        """All at once, as far as the waiting queue takes them; the first that fails ends the others."""
        running: list[asyncio.Task[Completion]] = []
        try:
            for prompt in prompts:
                running.append(asyncio.create_task(self._complete(prompt, params, options)))
                if len(running) % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            return await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()


async def _start(executor: Executor, config: SchedulerConfig) -> LocalEngine:
    return LocalEngine(executor, config)


async def _statistics(engine: LocalEngine) -> SchedulerStatistics:
    return engine.statistics


async def _next(stream: AsyncGenerator[Completion, None]) -> Completion | None:
    return await anext(stream, None)
