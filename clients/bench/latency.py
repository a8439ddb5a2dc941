"""`quire bench latency`: how long one batch takes in one process."""

import time
from dataclasses import asdict

from pydantic import Field

from quire.clients.bench.offline import OfflineSettings, open_llm
from quire.clients.bench.settings import make_sessions
from quire.clients.bench.summary import spread
from quire.engine.api.sampling import SamplingParams


class Settings(OfflineSettings):
    """Generate for one batch again and again in process, and report how long it takes."""

    batch_size: int = Field(8, ge=1)
    """Prompts of a batch."""

    num_iterations: int = Field(10, ge=1)
    """Batches to measure."""

    num_warmup: int = Field(2, ge=0)
    """Batches before that."""


def run(settings: Settings) -> int:
    """Returns the exit code."""
    print(f"seed {settings.seed}")
    seconds: list[float] = []
    with open_llm(settings) as llm:
        vocab_size = settings.vocab_size or llm.tokenizer.vocab_size
        for part in range(settings.num_warmup + settings.num_iterations):
            chosen = settings.model_copy(update={"num_requests": settings.batch_size})
            turns = [session.turns[0] for session in make_sessions(chosen, vocab_size, part)]
            max_tokens = max(turn.output_tokens for turn in turns)
            params = SamplingParams(
                temperature=settings.temperature, max_tokens=max_tokens, ignore_eos=settings.ignore_eos
            )
            start = time.perf_counter()
            llm.generate([turn.prompt for turn in turns], params)
            seconds.append(time.perf_counter() - start)
    found = spread(seconds[settings.num_warmup :])
    assert found is not None
    print(f"one batch of {settings.batch_size}, ms: " + "  ".join(f"{k} {v:.1f}" for k, v in asdict(found).items()))
    return 0
