"""The in-process API beyond its texts: refusals, more prompts than may wait, interrupts, the end."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders

from quire.engine.api.errors import InvalidRequest, RequestError, StartupError, Unavailable
from quire.engine.api.options import CacheParams, RequestOptions, Retention
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.llm import LLM
from quire.engine.scheduling.scheduler import Scheduler
from support.models import write_model

GREEDY = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
LONG = replace(GREEDY, max_tokens=900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    scheduler = SchedulerConfig(max_waiting_requests=8)
    with LLM(str(folder), num_blocks=256, max_batch_size=4, scheduler=scheduler) as made:
        yield made


def await_idle(llm: LLM) -> None:
    deadline = time.monotonic() + 60
    while llm.statistics().num_running or llm.statistics().num_waiting:
        assert time.monotonic() < deadline, llm.statistics()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 2.5}, "sampling.max_tokens: must be an integer, got 2.5"),
        ({"max_tokens": "5"}, "sampling.max_tokens: must be an integer, got '5'"),
        ({"top_k": True}, "sampling.top_k: must be an integer, got True"),
        ({"temperature": "hot"}, "sampling.temperature: must be a number, got 'hot'"),
        ({"stop_token_ids": 7}, "sampling.stop_token_ids: must be a flat list of integers, got 7"),
        ({"stop_token_ids": (True,)}, "sampling.stop_token_ids: must be a flat list of integers, got (True,)"),
        ({"stop": b"abc"}, "sampling.stop: must be a list of strings, got b'abc'"),
        ({"stop": (1,)}, "sampling.stop: must be a list of strings, got (1,)"),
        ({"stop_token_ids": (1.5,)}, "sampling.stop_token_ids: must be a flat list of integers, got (1.5,)"),
    ],
)
def test_values_of_another_type_are_refused(llm: LLM, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate("a", replace(GREEDY, **params))
    assert str(caught.value) == message
    await_idle(llm)


@pytest.mark.parametrize("prompt", [[True, 5], [1.5], [[1], [2]], torch.ones(2)])
def test_token_ids_that_are_none(llm: LLM, prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="token_ids: must be a flat list of integers"):
        llm.generate([prompt], GREEDY)
    await_idle(llm)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (CacheParams(salt=3), "cache.salt: must be a string, got 3"),  # type: ignore[arg-type]
        (
            CacheParams(retention=(Retention(0, None, 3.5),)),  # type: ignore[arg-type]
            "cache.retention[0].priority: must be an integer, got 3.5",
        ),
        (
            CacheParams(retention=(Retention("0", None, 3),)),  # type: ignore[arg-type]
            "cache.retention[0].start: must be an integer, got '0'",
        ),
    ],
)
def test_cache_options_of_another_type(llm: LLM, cache: CacheParams, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate("a", GREEDY, RequestOptions(cache=cache))
    assert str(caught.value) == message


def test_numbers_of_numpy_are_numbers(llm: LLM) -> None:
    params: Any = replace(GREEDY, temperature=np.float32(0), max_tokens=np.int64(3))
    assert len(llm.generate("a", params)[0].token_ids) == 3
    options: Any = RequestOptions(priority=1.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"priority: must be an integer, got 1\.5"):
        llm.generate("a", GREEDY, options)


def test_more_prompts_than_may_wait(llm: LLM) -> None:
    prompts = [[1 + index % 200, 2, 3] for index in range(300)]
    answers = llm.generate(prompts, GREEDY)
    assert [answer.token_ids for answer in answers[:4]] == [llm.generate([p], GREEDY)[0].token_ids for p in prompts[:4]]
    assert len(answers) == 300


def test_one_refused_prompt_ends_the_others(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="token_ids"):
        llm.generate([[1, 2], [3, 4], []], LONG)
    await_idle(llm)


def await_running(llm: LLM) -> None:
    while not llm.statistics().num_running:
        time.sleep(0.01)


def interrupted(llm: LLM, call: Callable[[], object]) -> None:
    """Ctrl-C when a request of the call runs."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        await_running(llm)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    thread.join()


def test_ctrl_c_ends_what_runs(llm: LLM) -> None:
    endless = [[1, 2, 3]] * 200
    interrupted(llm, lambda: llm.generate(endless, LONG))
    await_idle(llm)
    interrupted(llm, lambda: [list(llm.generate_stream([1, 2, 3], LONG)) for _ in range(1000)])
    await_idle(llm)
    assert len(llm.generate([[1, 2, 3]], GREEDY)[0].token_ids) == 2


async def test_a_cancelled_task_ends_its_request(llm: LLM) -> None:
    async def read() -> None:
        async for _ in llm.generate_stream_async([1, 2, 3], LONG):
            pass

    for coroutine in (read(), llm.generate_async([1, 2, 3], LONG)):
        task = asyncio.create_task(coroutine)
        await asyncio.to_thread(await_running, llm)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(await_idle, llm)


async def test_streams_add_up(llm: LLM) -> None:
    params = replace(GREEDY, max_tokens=20)
    whole = (await llm.generate_async([5, 6, 7], params)).token_ids
    pieces = [piece async for piece in llm.generate_stream_async([5, 6, 7], params)]
    assert tuple(token_id for piece in pieces for token_id in piece.token_ids) == whole
    found = await asyncio.to_thread(lambda: list(llm.generate_stream([5, 6, 7], params)))
    assert tuple(token_id for piece in found for token_id in piece.token_ids) == whole
    with pytest.raises(InvalidRequest):
        [piece async for piece in llm.generate_stream_async([5, 6, 7], replace(GREEDY, top_p=2))]


def test_closing(folder: Path) -> None:
    llm = LLM(str(folder), num_blocks=128, max_batch_size=4)
    stream = llm.generate_stream([1, 2, 3], LONG)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(RequestError, match="the engine has stopped"):
        list(stream)
    for call in (lambda: llm.generate("a"), lambda: list(llm.generate_stream("a")), llm.statistics):
        with pytest.raises(Unavailable, match="this LLM is closed"):
            call()


def test_closing_while_others_ask(folder: Path) -> None:
    """Everybody gets an answer or an error; nobody waits for ever."""
    llm = LLM(str(folder), num_blocks=128, max_batch_size=4)
    ends: list[Exception] = []
    calls = (llm.statistics, lambda: list(llm.generate_stream([1, 2, 3], GREEDY)), lambda: llm.generate([[1, 2]], LONG))
    all_ask = threading.Barrier(2 * len(calls) + 1)

    def ask(call: Callable[[], object]) -> None:
        try:
            all_ask.wait()
            while True:
                call()
        except RequestError as error:
            ends.append(error)

    threads = [threading.Thread(target=ask, args=(call,), daemon=True) for call in calls * 2]
    for thread in threads:
        thread.start()
    all_ask.wait()
    await_running(llm)
    llm.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(ends) == len(threads)


def test_closing_after_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Scheduler) -> None:
        raise ValueError("boom")

    llm = LLM(str(folder), num_blocks=128, max_batch_size=4)
    monkeypatch.setattr(Scheduler, "schedule", fail)
    with pytest.raises(RequestError, match="the engine has failed: boom"):
        llm.generate([[1, 2]], GREEDY)
    llm.close()
    llm.close()
    with pytest.raises(Unavailable, match="this LLM is closed"):
        llm.generate([[1, 2]], GREEDY)


def test_settings_that_will_not_do(folder: Path) -> None:
    with pytest.raises(StartupError) as caught:
        LLM(str(folder), dtype="float8", num_slot=4)
    assert str(caught.value) == (
        "dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16', got 'float8'; "
        "num_slot: there is no such setting"
    )


def test_a_tokenizer_whose_text_cannot_be_streamed(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "llama")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.decoder = decoders.WordPiece()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(StartupError, match=r"tokenizer.json decodes by WordPiece"):
        LLM(str(folder))
