"""Sampling on the device at a real vocabulary: the reference's tokens, and what a step of it takes."""

from dataclasses import replace

import pytest
import torch

from quire.kernels.sampling import sample as reference
from support.device_time import microseconds
from support.sampling import Row, sampling_rows

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NUM_ROWS, VOCAB_SIZE, DEVICE = 64, 128_256, torch.device("cuda")
SETTINGS = {
    "greedy": Row(temperature=0),
    "temperature": Row(0.8),
    "top_k": Row(0.8, top_k=50),
    "top_p": Row(0.8, top_p=0.95),
    "min_p": Row(1.0, min_p=0.05),
    "all": Row(0.7, 40, 0.9, 0.02),
}
# Of logits: as a model's that knows what comes, and so flat that most of the vocabulary passes a top_p.
DEVIATIONS = {"peaked": 3.0, "flat": 0.7}


def logits_of(deviation: float) -> torch.Tensor:
    """With ties, as products of bfloat16 have them."""
    generator = torch.Generator(DEVICE).manual_seed(1)
    drawn = torch.randn(NUM_ROWS, VOCAB_SIZE, device=DEVICE, generator=generator) * deviation
    return drawn.bfloat16().float()


@pytest.mark.parametrize("shape", DEVIATIONS)
@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_time(name: str, shape: str) -> None:
    triton_sampling = pytest.importorskip("quire.kernels.cuda.sampling")
    logits = logits_of(DEVIATIONS[shape])
    batches = [[replace(SETTINGS[name], seed=i, position=17 * step) for i in range(NUM_ROWS)] for step in range(20)]
    equal = 0
    for batch in batches:
        rows = sampling_rows(batch, DEVICE)
        equal += int((triton_sampling.sample(logits, rows) == reference(logits, rows)).sum())
    rows = sampling_rows(batches[0], DEVICE)
    ours, theirs = (
        microseconds(lambda sample=sample: sample(logits, rows)) for sample in (triton_sampling.sample, reference)
    )
    print(f"\n{name}, {shape}: {ours:.0f} µs, PyTorch {theirs:.0f}; {equal} of {20 * NUM_ROWS} tokens are the same")
    # They round differently, which shows only where the number falls within a rounding error of a token's edge.
    assert equal >= 20 * NUM_ROWS - 2


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_nothing() -> None:
    triton_sampling = pytest.importorskip("quire.kernels.cuda.sampling")
    logits, rows = logits_of(3.0), sampling_rows([SETTINGS["all"], *[Row()] * (NUM_ROWS - 1)], DEVICE)
    wanted = triton_sampling.sample(logits, rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = triton_sampling.sample(logits, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, wanted)
