"""`TextEncoder`: what is tokenized, in which order, and what is not tokenized at all."""

import asyncio
import threading

import pytest

from quire.engine.api.errors import InvalidRequest, Overloaded
from quire.engine.arrays import Int32Array
from quire.engine.text.encoder import SLOW_BYTES, TextEncoder
from quire.engine.text.tokenizer import LONG_TEXT, Tokenizer
from support.tokenizers import byte_tokenizer

SHORT, QUICK, SLOW = "s", "q" * LONG_TEXT, "x" * (SLOW_BYTES + 1)
TIMEOUT = 60.0


class GatedTokenizer(Tokenizer):
    """Stops at texts of "x" until told to go on, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(byte_tokenizer().backend)
        self.texts: list[str] = []
        self.has_stopped, self.go_on = threading.Event(), threading.Event()

    def encode(
        self,
        text: str,
        *,
        field: str = "text",
        max_model_len: int | None = None,
        add_special_tokens: bool = True,
    ) -> Int32Array:
        self.texts.append(text)
        if text.startswith("x"):
            self.has_stopped.set()
            assert self.go_on.wait(TIMEOUT)
        return super().encode(text, field=field, max_model_len=max_model_len, add_special_tokens=add_special_tokens)

    async def stopped(self) -> None:
        assert await asyncio.to_thread(self.has_stopped.wait, TIMEOUT)


async def test_texts_that_take_long_hold_up_no_others() -> None:
    tokenizer = GatedTokenizer()
    encoder = TextEncoder(tokenizer)
    slow = [asyncio.create_task(encoder.encode(SLOW)) for _ in range(16)]
    await tokenizer.stopped()
    assert len(await encoder.encode(SHORT)) == 1
    assert len(await encoder.encode(QUICK)) == len(QUICK)
    # One is tokenized, and fifteen wait for it.
    assert tokenizer.texts == [SLOW, SHORT, QUICK]
    tokenizer.go_on.set()
    assert [len(ids) for ids in await asyncio.gather(*slow)] == [len(SLOW)] * 16
    encoder.close()


async def test_a_text_whose_client_leaves_is_not_tokenized() -> None:
    tokenizer = GatedTokenizer()
    encoder = TextEncoder(tokenizer, max_pending_bytes=3 * len(SLOW) + 3)
    first, leaving, last = (asyncio.create_task(encoder.encode(SLOW + name)) for name in "abc")
    await tokenizer.stopped()
    with pytest.raises(Overloaded):
        await encoder.encode(QUICK)
    leaving.cancel()
    await asyncio.wait([leaving])
    # There is room again.
    await encoder.encode(QUICK)
    tokenizer.go_on.set()
    await asyncio.gather(first, last)
    assert leaving.cancelled()
    assert tokenizer.texts == [SLOW + "a", QUICK, SLOW + "c"]
    encoder.close()


async def test_more_than_may_wait_is_refused_with_the_numbers() -> None:
    tokenizer = GatedTokenizer()
    encoder = TextEncoder(tokenizer, max_pending_bytes=100_000)
    # A text alone is always taken.
    running = asyncio.create_task(encoder.encode("x" * 150_000))
    await tokenizer.stopped()
    with pytest.raises(Overloaded, match=r"texts of 150000 bytes .* with 2000 more they would pass 100000") as refused:
        await encoder.encode(QUICK)
    assert refused.value.retry_after >= 1
    assert len(await encoder.encode(SHORT)) == 1
    tokenizer.go_on.set()
    await running
    assert len(await encoder.encode(QUICK)) == len(QUICK)
    encoder.close()


async def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized() -> None:
    tokenizer = GatedTokenizer()
    encoder = TextEncoder(tokenizer)
    message = (
        r"prompt: must be at most 9999 tokens \(the model's context of 10000, less one\), "
        r"got '10000000 bytes, which make at least 65536 tokens'"
    )
    with pytest.raises(InvalidRequest, match=message):
        # "</s>" is the longest token that holds an "s".
        await encoder.encode("s" * 10_000_000, field="prompt", max_model_len=10_000)
    assert tokenizer.texts == []
    encoder.close()


async def test_a_text_that_turns_out_too_long_is_refused_with_its_tokens() -> None:
    encoder = TextEncoder(byte_tokenizer())
    for text in ("s" * 1000, "s" * 3000):
        with pytest.raises(InvalidRequest, match=rf"prompt: must be at most 999 tokens .*, got {len(text)}$"):
            await encoder.encode(text, field="prompt", max_model_len=1000)
    assert len(await encoder.encode("s" * 3000, max_model_len=3001)) == 3000
    encoder.close()


def test_a_long_text_is_tokenized_without_the_interpreters_lock() -> None:
    tokenizer = byte_tokenizer()
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        tokenizer.encode("a" * 3_000_000)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(TIMEOUT)
    # With the lock held, this thread would run again only at the end.
    num_turns = 0
    while not done.wait(0.001):
        num_turns += 1
    thread.join()
    assert num_turns > 10
