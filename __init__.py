"""Quire: an LLM inference server taken apart into gRPC services.

The in-process API is ``from quire import LLM, SamplingParams``; it is imported on first use, so that a
service which never touches torch does not pay for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quire.engine.api.beam_search import BeamSearchParams
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.api.version import __version__

if TYPE_CHECKING:
    from quire.engine.llm import LLM

__all__ = ["LLM", "BeamSearchParams", "SamplingParams", "StructuredOutput", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        try:
            return import_module("quire.engine.llm").LLM
        except ModuleNotFoundError as error:
            raise ImportError(f"LLM needs {error.name}: pip install 'quire[executor]'") from error
    raise AttributeError(f"module 'quire' has no attribute {name!r}")
