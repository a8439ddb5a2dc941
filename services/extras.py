"""What a command needs beyond a bare installation, which has what clients need, and the extra that brings it."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from quire.engine.api.errors import StartupError

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "frontend": (
            "grpc_reflection",
            "httptools",
            "huggingface_hub",
            "jinja2",
            "prometheus_client",
            "starlette",
            "tokenizers",
            "uvicorn",
        ),
        "scheduler": ("grpc_reflection", "prometheus_client", "redis"),
        "kv-events": ("msgspec", "zmq"),
        "chat": ("prompt_toolkit", "rich"),
        "top": ("rich",),
        "executor": (
            "grpc_reflection",
            "huggingface_hub",
            "jinja2",
            "prometheus_client",
            "safetensors",
            "tokenizers",
            "torch",
            "xgrammar",
        ),
    }
)
"""Modules by the extra of pyproject.toml that brings them."""


def check_extras(extras: Sequence[str]) -> None:
    """Raises `StartupError` if modules of these extras are not installed; it names both."""
    missing = {extra: [module for module in EXTRAS[extra] if find_spec(module) is None] for extra in extras}
    lacking = [extra for extra in extras if missing[extra]]
    if lacking:
        modules = sorted({module for extra in lacking for module in missing[extra]})
        raise StartupError(f"not installed: {', '.join(modules)}; pip install 'quire[{','.join(lacking)}]'")
