"""`quire bench throughput`: as many tokens as the engine makes in one process."""

import asyncio
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from quire.clients.bench.document import Run, check_writable, make_document, write_document
from quire.clients.bench.offline import OfflineSettings, open_llm
from quire.clients.bench.settings import make_sessions
from quire.clients.bench.workload.session import Session
from quire.engine.api.sampling import SamplingParams


class Settings(OfflineSettings):
    """Generate for all prompts in process, without services, and report tokens per second."""

    concurrency: int = Field(256, ge=1)
    """Requests at once."""

    json_file: Path | None = Field(None, alias="json")
    """File for the result."""


def run(settings: Settings) -> int:
    """Returns the exit code."""
    if settings.json_file is not None:
        check_writable(settings.json_file)
    started = time.time()
    print(f"seed {settings.seed}")
    with open_llm(settings) as llm:
        vocab_size = settings.vocab_size or llm.tokenizer.vocab_size
        asyncio.run(_generate(llm, settings, make_sessions(settings, vocab_size, 0)[:8]))
        summary = asyncio.run(_generate(llm, settings, make_sessions(settings, vocab_size, 1)))
    for name, value in summary.items():
        print(f"{name:<20} {value:.1f}" if isinstance(value, float) else f"{name:<20} {value}")
    if settings.json_file is not None:
        shown = settings.model_dump(mode="json", by_alias=True)
        runs = [Run({"concurrency": settings.concurrency}, summary)]
        write_document(settings.json_file, make_document(shown, settings.model or "demo", runs, started))
    return 0


async def _generate(llm: Any, settings: Settings, sessions: list[Session]) -> dict[str, Any]:
    places = asyncio.Semaphore(settings.concurrency)

    async def one(session: Session) -> Any:
        turn = session.turns[0]
        params = SamplingParams(
            temperature=settings.temperature, max_tokens=turn.output_tokens, ignore_eos=settings.ignore_eos
        )
        async with places:
            return (await llm.generate_async(turn.prompt, params)).usage

    start = time.perf_counter()
    usages = await asyncio.gather(*map(one, sessions))
    seconds = time.perf_counter() - start
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    output_tokens = sum(usage.generated_tokens for usage in usages)
    return {
        "succeeded": len(usages),
        "seconds": seconds,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": sum(usage.cached_tokens for usage in usages),
        "output_tokens": output_tokens,
        "requests_per_s": len(usages) / seconds,
        "output_tokens_per_s": output_tokens / seconds,
        "total_tokens_per_s": (prompt_tokens + output_tokens) / seconds,
    }
