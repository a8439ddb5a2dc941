"""Log-probabilities on the device: the reference's tokens at a real vocabulary, the CPU's numbers, no waiting."""

from dataclasses import replace

import pytest
import torch

from quire.engine.api.completion import join
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.llm import LLM
from quire.kernels.logprobs import logprobs as reference
from support.device_time import microseconds

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_ROWS, VOCAB_SIZE, DEVICE = 64, 128_256, torch.device("cuda")


def logits_of() -> torch.Tensor:
    """With ties, as products of bfloat16 have them."""
    generator = torch.Generator(DEVICE).manual_seed(1)
    return (torch.randn(NUM_ROWS, VOCAB_SIZE, device=DEVICE, generator=generator) * 3).bfloat16().float()


@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
def test_numbers_and_time(num_top: int) -> None:
    logprobs = pytest.importorskip("quire.kernels.cuda.logprobs").logprobs
    logits, every = logits_of(), torch.arange(NUM_ROWS, device=DEVICE)
    tokens = every * 1999
    found, wanted = (call(logits, tokens, every, num_top) for call in (logprobs, reference))
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-5)
    ours, theirs = (
        microseconds(lambda call=call: call(logits, tokens, every, num_top)) for call in (logprobs, reference)
    )
    print(f"\n{NUM_ROWS} rows of {VOCAB_SIZE}, {num_top} most likely: {ours:.0f} µs, PyTorch {theirs:.0f}")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_nothing() -> None:
    logprobs = pytest.importorskip("quire.kernels.cuda.logprobs").logprobs
    logits, every = logits_of(), torch.arange(NUM_ROWS, device=DEVICE)
    wanted = logprobs(logits, every, every, 20)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = logprobs(logits, every, every, 20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_the_engine_gives_the_numbers_of_the_cpu() -> None:
    """Of every kind of step, beside penalised rows and rows that want none."""
    greedy = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    asked = [replace(greedy, logprobs=5), replace(greedy, logprobs=20, repetition_penalty=1.3), greedy]
    found = []
    for device in ("cuda", "cpu"):
        with LLM(str(DEMO_MODEL), device=device, dtype="float32", num_blocks=200, max_batch_size=8) as llm:
            streams = [llm.generate_stream("def fibonacci(n):", params) for params in asked]
            first = [next(stream) for stream in streams]
            found.append([join([piece, *stream]) for piece, stream in zip(first, streams, strict=True)])
    for params, ours, theirs in zip(asked, *found, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert len(ours.logprobs) == len(theirs.logprobs) == (0 if params.logprobs is None else 60)
        for left, right in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert left.logprob == pytest.approx(right.logprob, abs=1e-3)
            assert left.top_logprobs == pytest.approx(right.top_logprobs, abs=1e-3)
