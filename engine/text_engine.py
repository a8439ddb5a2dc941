"""A `LocalEngine` with a tokenizer: prompts in, texts out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeVar

from quire.engine.api.adapter import Adapter
from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.completion import Completion, join
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import Overloaded
from quire.engine.api.options import RequestOptions
from quire.engine.api.pooling import Pooling
from quire.engine.api.prompt import Tokens
from quire.engine.api.sampling import SamplingParams, choice_params
from quire.engine.arrays import Int32Array
from quire.engine.beam_search_validation import validate_beam_search
from quire.engine.chat.chat_answer import ChatAnswer, ChatPiece
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.tool_choice import ToolChoice
from quire.engine.config import SchedulerConfig
from quire.engine.executor import Executor
from quire.engine.local_engine import LocalEngine
from quire.engine.open_request import OpenRequest
from quire.engine.sampling_validation import validate_sampling
from quire.engine.scheduling.plugins import NO_PLUGINS, Plugins
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.text.bad_words import resolve_bad_words
from quire.engine.text.beam_answers import beam_answers
from quire.engine.text.embedding import embedding_of, embedding_params
from quire.engine.text.encoder import TextEncoder
from quire.engine.text.pieces import Pieces
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.token_ids import token_array
from quire.engine.validation import fill_defaults, validate, validate_options

# Prompts that are submitted before steps may begin.
_AT_ONCE: Final = 256
Piece = TypeVar("Piece")


class TextEngine:
    """All methods belong to the event loop it was made on, and raise `RequestError` for a request that fails."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        executor: Executor,
        config: SchedulerConfig,
        plugins: Plugins = NO_PLUGINS,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        # Prompts that wait lie in this process anyway.
        self._encoder = TextEncoder(tokenizer, max_pending_bytes=None)
        self._engine = LocalEngine(executor, config, plugins)

    async def stop(self) -> None:
        """Fails what is open and waits for the step that runs."""
        try:
            await self._engine.stop()
        finally:
            self._encoder.close()
            await self._chat.close()

    async def statistics(self) -> SchedulerStatistics:
        return self._engine.statistics

    async def load_adapter(self, name: str, path: str) -> Adapter:
        """Takes an adapter of a PEFT folder under a name."""
        return await self._engine.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        """No further request may name it."""
        self._engine.unload_adapter(name)

    async def adapters(self) -> list[Adapter]:
        """Those that requests may name."""
        return self._engine.adapters

    async def follow(
        self, prompt: Tokens, params: SamplingParams, options: RequestOptions
    ) -> AsyncGenerator[Completion, None]:
        """The answer in pieces; closing the iterator ends the request."""
        request = self._engine.submit(await self._token_ids(prompt, options), self._resolved(params), options)
        async with aclosing(self._follow(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def follow_chat(
        self,
        conversation: Conversation,
        tool_choice: ToolChoice,
        template: str | None,
        params: SamplingParams,
        options: RequestOptions,
    ) -> AsyncGenerator[ChatPiece, None]:
        """As `follow`, of the prompt that a template makes; the answer may be as long as the context."""
        options = _behind_template(options)
        prompt = await self._chat.prompt(conversation, template, tool_choice)
        request = self._engine.submit(*await self._chat_request(prompt, params, options), options)
        reader = prompt.reader()
        async with aclosing(self._follow(request)) as pieces:
            async for piece in pieces:
                read = reader.push if piece.finish_reason is None else reader.finish
                yield ChatPiece(tuple(read(piece.text)), piece)

    async def complete(self, prompt: Tokens, params: SamplingParams, options: RequestOptions) -> Completion:
        """The whole answer."""
        return await self._join(
            self._engine.submit(await self._token_ids(prompt, options), self._resolved(params), options)
        )

    async def chat_all(
        self,
        conversations: Sequence[Conversation],
        tool_choice: ToolChoice,
        template: str | None,
        params: SamplingParams,
        options: RequestOptions,
    ) -> list[ChatAnswer]:
        """As `complete_all`, of the prompts that a template makes; answers may be as long as the context."""
        options = _behind_template(options)
        prompts = [await self._chat.prompt(conversation, template, tool_choice) for conversation in conversations]
        requests = [await self._chat_request(prompt, params, options) for prompt in prompts]
        answers = await self._complete_each(requests, options)
        return [prompt.answer(answer) for prompt, answer in zip(prompts, answers, strict=True)]

    async def _chat_request(
        self, prompt: ChatPrompt, params: SamplingParams, options: RequestOptions
    ) -> tuple[Int32Array, SamplingParams]:
        token_ids = await self._token_ids(prompt.text, options, "messages")
        own = self._resolved(prompt.sampling(params))
        return token_ids, fill_defaults(own, len(token_ids), self._engine.limits, fills_context=True)

    async def embed_all(
        self, prompts: Sequence[Tokens], pooling: Pooling, options: RequestOptions, normalize: bool
    ) -> list[Embedding]:
        """As `complete_all`, of prompts alone."""
        answers = await self.complete_all(prompts, embedding_params(pooling), options)
        return [embedding_of(answer, normalize) for answer in answers]

    async def beam_search_all(
        self, prompts: Sequence[Tokens], params: BeamSearchParams, options: RequestOptions
    ) -> list[list[Completion]]:
        """The answers to each prompt, the best first; the first prompt that fails ends the others."""
        validate_beam_search(params)
        # More searches than run at once would push each other's blocks out of the cache.
        turns = asyncio.Semaphore(max(1, self._engine.max_batch_size // params.beam_width))
        searches = [asyncio.create_task(self._beam_search(prompt, params, options, turns)) for prompt in prompts]
        try:
            return await asyncio.gather(*searches)
        finally:
            for search in searches:
                search.cancel()

    async def _beam_search(
        self, prompt: Tokens, params: BeamSearchParams, options: RequestOptions, turns: asyncio.Semaphore
    ) -> list[Completion]:
        limits, eos_token_ids = self._engine.limits, self._engine.eos_token_ids
        async with turns:
            token_ids = await self._token_ids(prompt, options)
            whole = fill_defaults(params.sampling, len(token_ids), limits)
            validate(token_ids, whole, limits)
            assert whole.max_tokens is not None
            return await beam_answers(
                token_ids, params, whole.max_tokens, options, eos_token_ids, self._tokenizer, self._ask
            )

    async def _ask(
        self, prompts: Sequence[Int32Array], params: SamplingParams, options: RequestOptions
    ) -> list[Completion]:
        return await self._complete_each([(each, params) for each in prompts], options, is_resumed=True)

    async def complete_all(
        self, prompts: Sequence[Tokens], params: SamplingParams, options: RequestOptions, n: int = 1
    ) -> list[Completion]:
        """All at once, as far as the waiting queue takes them; the first that fails ends the others.

        Args:
            n: answers to each prompt, which follow one another.
        """
        params = self._resolved(params)
        requests = [(prompt, choice_params(params, index)) for prompt in prompts for index in range(n)]
        answers = await self._complete_each(requests, options)
        return [replace(answer, index=place % n) for place, answer in enumerate(answers)]

    async def _complete_each(
        self,
        requests: Sequence[tuple[Tokens | Int32Array, SamplingParams]],
        options: RequestOptions,
        is_resumed: bool = False,
    ) -> list[Completion]:
        opened: list[OpenRequest] = []
        answers: list[asyncio.Task[Completion]] = []
        earlier = iter(answers)
        try:
            for prompt, params in requests:
                token_ids = await self._token_ids(prompt, options)
                opened.append(await self._submit(token_ids, params, options, earlier, is_resumed))
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

    def _resolved(self, params: SamplingParams) -> SamplingParams:
        validate_sampling(params, self._engine.limits.vocab_size)
        return resolve_bad_words(params, self._tokenizer)

    async def _token_ids(self, prompt: Tokens | Int32Array, options: RequestOptions, field: str = "text") -> Int32Array:
        validate_options(options)
        limits, kept = self._engine.limits, options.prompt.truncate_prompt_tokens
        if isinstance(prompt, str):
            token_ids = await self._encoder.encode(
                prompt,
                field=field,
                max_model_len=limits.max_model_len if kept is None else None,
                add_special_tokens=options.prompt.add_special_tokens,
            )
        else:
            token_ids = token_array(prompt, limits.vocab_size)
        return token_ids if kept is None else token_ids[-kept:]

    async def _follow(self, request: OpenRequest) -> AsyncGenerator[Completion, None]:
        try:
            async for piece in Pieces(request, self._tokenizer).follow():
                yield piece
        finally:
            self._engine.close(request)

    async def _join(self, request: OpenRequest) -> Completion:
        request.expect_end()
        return join([piece async for piece in self._follow(request)])

    async def _submit(
        self,
        token_ids: Int32Array,
        params: SamplingParams,
        options: RequestOptions,
        earlier: Iterator[Awaitable[Any]],
        is_resumed: bool,
    ) -> OpenRequest:
        """Submits a request as soon as the waiting queue has room; the end of an earlier request may make room."""
        while True:
            try:
                return self._engine.submit(token_ids, params, options, is_resumed=is_resumed)
            except Overloaded:
                answer = next(earlier, None)
                if answer is None:
                    raise
            await answer


async def pass_on(pieces: AsyncGenerator[Piece, None], put: Callable[[Piece | Exception | None], None]) -> None:
    """Gives every piece to `put`, then None, or the error that ended them."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                put(piece)
    except Exception as error:
        put(error)
    else:
        put(None)


def _behind_template(options: RequestOptions) -> RequestOptions:
    """The template has written the special tokens."""
    return replace(options, prompt=replace(options.prompt, add_special_tokens=False))
