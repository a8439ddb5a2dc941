"""The in-process API: a model as an object, with the same engine as the services and no network."""

import asyncio
import queue
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from pydantic import ValidationError

from quire.engine.api.adapter import Adapter
from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.pooling import Pooling
from quire.engine.api.prompt import Prompt, Prompts, prompt_content, prompt_contents
from quire.engine.api.sampling import SamplingParams
from quire.engine.chat.chat_answer import ChatAnswer, ChatPiece
from quire.engine.chat.chat_fields import ChatFields, Messages, read_chats
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.config import ChatConfig, ExecutorConfig, SchedulerConfig, mistakes
from quire.engine.engine_thread import EngineThread
from quire.engine.executor import Executor
from quire.engine.model.features.user_processor import UserProcessor
from quire.engine.model.source import resolve_model
from quire.engine.scheduling.plugins import NO_PLUGINS, Plugins
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.text_engine import Piece, TextEngine, pass_on

DEFAULTS = SamplingParams()
BEAM_DEFAULTS = BeamSearchParams()
# What a stream reads of the engine, piece by piece.
Follow = Callable[[TextEngine], AsyncGenerator[Piece, None]]


class LLM:
    """A model that generates. Thread-safe.

    A `with` block or `close` ends its threads and frees its memory at once. So does the last reference to it when it
    goes, and the end of the program.

    Every generating method takes priority and cache options, and raises `RequestError` for a request that is
    refused or fails. A prompt is a text, a list of token ids, {"prompt": text} or {"prompt_token_ids": token ids}.

    Args:
        model: Hugging Face folder or hub id; None: the demo model.
        scheduler: how steps are filled.
        plugins: classes that schedule or manage resources in place of Quire's own.
        chat: how the model chats, where its folder does not say so.
        logits_processors: functions by the names that requests give them, or names of installed plug-ins.
        settings: further fields of `ExecutorConfig`, such as dtype="float32" or num_blocks=512.

    Raises:
        StartupError: the model or a setting will not do.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        scheduler: SchedulerConfig | None = None,
        plugins: Plugins = NO_PLUGINS,
        chat: ChatConfig | None = None,
        logits_processors: Mapping[str, UserProcessor] | Sequence[str] = (),
        **settings: Any,
    ) -> None:
        try:
            given = logits_processors if isinstance(logits_processors, Mapping) else {}
            names = () if given else tuple(logits_processors)
            config = ExecutorConfig(model=model, logits_processors=names, **settings)
        except ValidationError as error:
            raise StartupError("; ".join(f"{each.setting}: {each.reason}" for each in mistakes(error))) from error
        folder = resolve_model(model)
        self.tokenizer = Tokenizer.load(folder)
        chats = ChatFormat(folder, self.tokenizer.special_tokens, chat or ChatConfig())
        executor = Executor(config, given)
        make = partial(TextEngine, self.tokenizer, chats, executor, scheduler or SchedulerConfig(), plugins)
        self._thread = EngineThread(make)
        weakref.finalize(self, self._thread.close_from_any_thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs and frees threads and memory; harmless if closed already."""
        self._thread.close()

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams = DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
        *,
        n: int = 1,
    ) -> list[Completion]:
        """The whole answers, in the order of the prompts.

        Args:
            prompts: a text, a mapping, or a list of prompts.
            n: answers to each prompt, which follow one another; answer i has the seed plus i.
        """
        contents = prompt_contents(prompts)
        if n < 1:
            raise InvalidRequest("n", n, "must be at least 1")
        return self._thread.call(lambda engine: engine.complete_all(contents, params, options, n=n))

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams = DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
        **fields: Unpack[ChatFields],
    ) -> list[ChatAnswer]:
        """The assistant's answers, in the order of the conversations. They may be as long as the context.

        Args:
            messages: of a conversation, or a list of several: each an object as OpenAI's API has it, or a `Message`.
            fields: tools, templates and more; `ChatFields` has them all.
        """
        conversations, choice, template = read_chats(messages, fields)
        return self._thread.call(lambda engine: engine.chat_all(conversations, choice, template, params, options))

    def chat_stream(
        self,
        messages: Messages,
        params: SamplingParams = DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
        **fields: Unpack[ChatFields],
    ) -> Generator[ChatPiece, None, None]:
        """The assistant's answer in pieces, as it is made; closing the iterator ends the request.

        Arguments are those of `chat`, for one conversation. `join_chat` makes the whole answer of the pieces.
        """
        return self._stream(_chat(messages, params, options, fields))

    def chat_stream_async(
        self,
        messages: Messages,
        params: SamplingParams = DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
        **fields: Unpack[ChatFields],
    ) -> AsyncGenerator[ChatPiece, None]:
        """As `chat_stream`, for any event loop."""
        return self._stream_async(_chat(messages, params, options, fields))

    def beam_search(
        self,
        prompts: Prompts,
        params: BeamSearchParams = BEAM_DEFAULTS,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[list[Completion]]:
        """The most likely answers to each prompt that beam search finds, the best first; `beam_width` to each."""
        contents = prompt_contents(prompts)
        return self._thread.call(lambda engine: engine.beam_search_all(contents, params, options))

    def embed(
        self,
        prompts: Prompts,
        pooling: Pooling = Pooling.LAST,
        options: RequestOptions = DEFAULT_OPTIONS,
        *,
        normalize: bool = True,
    ) -> list[Embedding]:
        """Embeddings in the order of the prompts; `normalize` divides each by its Euclidean norm."""
        contents = prompt_contents(prompts)
        return self._thread.call(lambda engine: engine.embed_all(contents, pooling, options, normalize))

    def generate_stream(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Generator[Completion, None, None]:
        """The answer in pieces, as it is made; closing the iterator ends the request."""
        content = prompt_content(prompt)
        return self._stream(lambda engine: engine.follow(content, params, options))

    async def generate_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Completion:
        """The whole answer; cancelling the task ends the request. For any event loop."""
        content = prompt_content(prompt)
        return await asyncio.wrap_future(self._thread.start(lambda engine: engine.complete(content, params, options)))

    def generate_stream_async(
        self, prompt: Prompt, params: SamplingParams = DEFAULTS, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Completion, None]:
        """The answer in pieces, as it is made; closing the iterator ends the request. For any event loop."""
        content = prompt_content(prompt)
        return self._stream_async(lambda engine: engine.follow(content, params, options))

    def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Takes a low-rank adapter of a PEFT folder; requests name it as `RequestOptions.adapter`.

        Args:
            name: default: that of the folder. An adapter that had the name is gone for further requests.

        Raises:
            InvalidRequest: it is none of this model.
        """
        folder = Path(path)
        called = folder.resolve().name if name is None else name
        return self._thread.call(lambda engine: engine.load_adapter(called, str(folder)))

    def unload_adapter(self, name: str) -> None:
        """No further request may name it; those that have go on.

        Raises:
            InvalidRequest: there is none of this name.
        """
        self._thread.call(lambda engine: engine.unload_adapter(name))

    def adapters(self) -> list[Adapter]:
        """Those that requests may name."""
        return self._thread.call(TextEngine.adapters)

    def statistics(self) -> SchedulerStatistics:
        """Counts of waiting and running sequences and cached blocks now, and of tokens reused so far."""
        return self._thread.call(TextEngine.statistics)

    def _stream(self, follow: Follow[Piece]) -> Generator[Piece, None, None]:
        updates: queue.SimpleQueue[Piece | Exception | None] = queue.SimpleQueue()
        running = self._thread.start(lambda engine: pass_on(follow(engine), updates.put))
        try:
            while (piece := _piece(updates.get())) is not None:
                yield piece
                self._thread.check_process()
        finally:
            running.cancel()

    async def _stream_async(self, follow: Follow[Piece]) -> AsyncGenerator[Piece, None]:
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception | None]()

        def put(what: Piece | Exception | None) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, what)

        running = self._thread.start(lambda engine: pass_on(follow(engine), put))
        try:
            while (piece := _piece(await updates.get())) is not None:
                yield piece
                self._thread.check_process()
        finally:
            running.cancel()


def _chat(messages: Messages, params: SamplingParams, options: RequestOptions, fields: ChatFields) -> Follow[ChatPiece]:
    conversations, choice, template = read_chats(messages, fields)
    if len(conversations) > 1:
        raise InvalidRequest("messages", len(conversations), "must be one conversation in a stream")
    return lambda engine: engine.follow_chat(conversations[0], choice, template, params, options)


def _piece(update: Piece | Exception | None) -> Piece | None:
    if isinstance(update, Exception):
        raise update
    return update
