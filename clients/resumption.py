"""Streams that break off are asked for again, and go on behind what has come.

An answer depends only on its request if that has a seed, or a temperature of 0. So the second answer begins as the
first one did, wherever it is computed.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Final

from quire.engine.api.completion import Completion
from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams

# Attempts in a row that may bring nothing new.
MAX_FAILURES: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.1
_SEED_BITS: Final = 63


def with_seed(params: SamplingParams) -> SamplingParams:
    """The same parameters with a seed: the server would draw another one for each attempt."""
    if params.seed is not None or params.temperature == 0:
        return params
    return replace(params, seed=secrets.randbits(_SEED_BITS))


class Resumption:
    """One stream that may be asked for several times.

    Args:
        timeout: seconds from its beginning to its end; None: no limit.
        begins: ask again also for one of which nothing has come. Of other streams their channel has done so.

    Attributes:
        is_over: its last piece has come.
    """

    def __init__(self, timeout: float | None, begins: bool = False) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout
        self._begins = begins
        self.is_over = False
        self._token_ids: list[int] = []
        self._num_characters = 0
        # How far this attempt has got.
        self._token, self._character = 0, 0
        self._num_failures = 0

    @property
    def timeout(self) -> float | None:
        """Seconds that are left; None: no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def pause_behind(self, error: Unavailable) -> float:
        """Seconds until the next attempt.

        Raises:
            Unavailable: the error, as no attempt is worthwhile.
        """
        if not (self._token_ids or self._begins) or self._num_failures == MAX_FAILURES:
            raise error
        self._num_failures += 1
        self._token, self._character = 0, 0
        return FIRST_PAUSE_SECONDS * 2.0 ** (self._num_failures - 1)

    def take(self, piece: Completion) -> Completion | None:
        """What is new in a piece of an attempt; None: nothing.

        Raises:
            Unavailable: this attempt's answer is another one.
        """
        num_had = min(len(piece.token_ids), len(self._token_ids) - self._token)
        had = self._token_ids[self._token : self._token + num_had]
        if list(piece.token_ids[:num_had]) != had:
            raise Unavailable("the stream broke off, and the answer to the same request is another one now")
        num_read = min(len(piece.text), self._num_characters - self._character)
        self._token += len(piece.token_ids)
        self._character += len(piece.text)
        if not num_had and not num_read:
            new = piece
        else:
            rest = piece.token_ids[num_had:]
            new = replace(
                piece, text=piece.text[num_read:], token_ids=rest, logprobs=piece.logprobs[num_had:], prompt_logprobs=()
            )
        self._token_ids.extend(new.token_ids)
        self._num_characters += len(new.text)
        if not new.token_ids and not new.text and new.finish_reason is None:
            return None
        self._num_failures, self.is_over = 0, new.finish_reason is not None
        return new


def resumed(
    ask: Callable[[float | None], Generator[Completion, None, None]], timeout: float | None
) -> Generator[Completion, None, None]:
    """One answer, however often it must be asked for.

    Args:
        ask: asks for it; its argument is how long it may take.
        timeout: seconds that all may take together.

    Raises:
        QuireError: that of the last attempt.
    """
    resumption = Resumption(timeout)
    while not resumption.is_over:
        try:
            with closing(ask(resumption.timeout)) as pieces:
                for piece in pieces:
                    if (new := resumption.take(piece)) is not None:
                        yield new
        except Unavailable as error:
            if not resumption.is_over:
                time.sleep(resumption.pause_behind(error))
        else:
            return


async def resumed_async(
    ask: Callable[[float | None], AsyncGenerator[Completion, None]], timeout: float | None, begins: bool = False
) -> AsyncGenerator[Completion, None]:
    """As `resumed`, for asyncio; `begins` as in `Resumption`."""
    resumption = Resumption(timeout, begins)
    while not resumption.is_over:
        try:
            async with aclosing(ask(resumption.timeout)) as pieces:
                async for piece in pieces:
                    if (new := resumption.take(piece)) is not None:
                        yield new
        except Unavailable as error:
            if not resumption.is_over:
                await asyncio.sleep(resumption.pause_behind(error))
        else:
            return
