"""Sends sessions: a fixed number at a time, or each when it is due."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from quire.clients.bench.record import Record
from quire.clients.bench.target.base import Exchange, Target
from quire.clients.bench.workload.session import Prompt, Session

OnDone = Callable[[], object]
# Of one session's turns, and by how many seconds each was late.
_Sent = list[tuple[Exchange, float]]


async def closed_loop(target: Target, sessions: Sequence[Session], concurrency: int, on_done: OnDone) -> list[Record]:
    """`concurrency` sessions at a time, the next as soon as one is over."""
    payloads = _encoded(target, sessions)
    todo = iter(zip(sessions, payloads, strict=True))

    async def work() -> _Sent:
        sent: _Sent = []
        for session, payload in todo:
            sent += await _run(target, session, payload, None, on_done)
        return sent

    return _digested(target, await asyncio.gather(*(work() for _ in range(min(concurrency, len(sessions))))))


async def open_loop(
    target: Target, sessions: Sequence[Session], max_concurrency: int | None, on_done: OnDone
) -> list[Record]:
    """Each session at its time `at`, whatever has become of those before.

    Args:
        max_concurrency: sessions at once; those that are due wait here for a place. None: no limit.
    """
    payloads = _encoded(target, sessions)
    places = asyncio.Semaphore(max_concurrency or len(sessions))
    start = time.perf_counter()

    async def arrive(session: Session, payload: bytes) -> _Sent:
        due = start + (session.at or 0.0)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        async with places:
            return await _run(target, session, payload, due, on_done)

    return _digested(target, await asyncio.gather(*map(arrive, sessions, payloads)))


async def _run(target: Target, session: Session, payload: bytes, due: float | None, on_done: OnDone) -> _Sent:
    exchange = await target.send(payload)
    sent = [(exchange, 0.0 if due is None else exchange.sent - due)]
    on_done()
    history = session.turns[0].prompt
    for turn in session.turns[1:]:
        record = target.digest(exchange)
        if record.error is not None:
            break
        history = _joined(history, record.token_ids, turn.prompt)
        exchange = await target.send(target.encode(history, turn.output_tokens))
        sent.append((exchange, 0.0))
        on_done()
    return sent


def _encoded(target: Target, sessions: Sequence[Session]) -> list[bytes]:
    """First requests, made before the clock runs."""
    return [target.encode(session.turns[0].prompt, session.turns[0].output_tokens) for session in sessions]


def _joined(history: Prompt, answer: tuple[int, ...], prompt: Prompt) -> Prompt:
    """Prompt of the next turn. An API that gives no token ids leaves the answers out of the history."""
    if isinstance(history, str) or isinstance(prompt, str):
        raise TypeError("sessions of several turns are made of token ids")
    return history + answer + prompt


def _digested(target: Target, sent: Sequence[_Sent]) -> list[Record]:
    return [replace(target.digest(exchange), late=late) for one in sent for exchange, late in one]
