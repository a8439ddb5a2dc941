"""The engine in process. It is loaded only when it is asked for: online benchmarks do without torch."""

import importlib
from typing import Any

from pydantic import Field

from quire.clients.bench.settings import WorkloadSettings


class OfflineSettings(WorkloadSettings):
    """Settings of a workload and of the engine that computes it."""

    model: str | None = None
    """Hugging Face folder or hub id; default: the demo model."""

    dtype: str = "auto"
    """Compute type, as of `quire executor`."""

    num_blocks: int | None = Field(None, ge=1)
    """Blocks in the KV pool, as of `quire executor`."""


def open_llm(settings: OfflineSettings) -> Any:
    """A `quire.LLM`; close it."""
    given = {} if settings.num_blocks is None else {"num_blocks": settings.num_blocks}
    return importlib.import_module("quire.engine.llm").LLM(settings.model, dtype=settings.dtype, **given)
