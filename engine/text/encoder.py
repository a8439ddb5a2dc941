"""Texts to token ids beside an event loop, which no text holds up, however long."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from quire.engine.api.errors import Overloaded
from quire.engine.arrays import Int32Array
from quire.engine.text.bound import TokenBound
from quire.engine.text.tokenizer import LONG_TEXT, Tokenizer, utf8
from quire.engine.validation import check_length

# Of UTF-8. Longer texts are tokenized one after another: a byte takes up to 200 bytes of memory meanwhile.
SLOW_BYTES = 64 * 1024
# Of UTF-8, of all texts that wait for a thread or have one.
MAX_PENDING_BYTES = 64 * 1024 * 1024
_QUICK_THREADS = 2
# What one thread does at least, for the time after which to try again.
_BYTES_PER_SECOND = 2_000_000


class TextEncoder:
    """Tokenizes on threads without the interpreter's lock. All methods belong to one event loop.

    A short text is tokenized at once: that is faster than to wake a thread. The others wait in two queues, so that no
    text waits for one much longer than itself. Who is cancelled while it waits is not tokenized.

    Args:
        tokenizer: the model's.
        max_pending_bytes: of UTF-8, of all texts that wait or are tokenized; None: no limit. A single text may have
            more.
    """

    def __init__(self, tokenizer: Tokenizer, max_pending_bytes: int | None = MAX_PENDING_BYTES) -> None:
        self._tokenizer = tokenizer
        self._bound = TokenBound(tokenizer.backend)
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, "quire-tokenizer")
        self._slow = ThreadPoolExecutor(1, "quire-tokenizer-slow")

    async def encode(
        self,
        text: str,
        *,
        field: str = "text",
        max_model_len: int | None = None,
        add_special_tokens: bool = True,
    ) -> Int32Array:
        """As `Tokenizer.encode`; a text that cannot fit is refused before it is tokenized.

        Raises:
            InvalidRequest: the text holds a lone surrogate, or leaves no room in a context of `max_model_len` tokens.
            Overloaded: too many texts wait.
        """
        work = partial(
            self._tokenizer.encode,
            text,
            field=field,
            max_model_len=max_model_len,
            add_special_tokens=add_special_tokens,
        )
        if len(text) < LONG_TEXT:
            return work()
        data = utf8(text, field)
        size = len(data)
        if max_model_len is not None:
            for fewest in self._bound.count(data):
                check_length(field, fewest, max_model_len, f"{size} bytes, which make at least {fewest} tokens")
                await asyncio.sleep(0)
        del data
        with self._pending(size):
            threads = self._quick if size <= SLOW_BYTES else self._slow
            return await asyncio.get_running_loop().run_in_executor(threads, work)

    def close(self) -> None:
        """Ends the threads; what waits is not tokenized."""
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _pending(self, size: int) -> Iterator[None]:
        limit, pending = self._max_pending_bytes, self._pending_bytes
        if limit is not None and pending and pending + size > limit:
            message = f"texts of {pending} bytes wait to be tokenized, and with {size} more they would pass {limit}"
            raise Overloaded(message, retry_after=max(1.0, pending / _BYTES_PER_SECOND))
        self._pending_bytes += size
        try:
            yield
        finally:
            self._pending_bytes -= size
