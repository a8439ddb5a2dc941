"""Attention backends by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from quire.kernels.attention.base import AttentionBackend, AttentionSpec
from quire.kernels.attention.torch import TorchAttention

ATTENTION_BACKENDS: Final[Mapping[str, Callable[[AttentionSpec], AttentionBackend]]] = MappingProxyType(
    {"torch": TorchAttention}
)


def attention_backend(name: str, spec: AttentionSpec) -> AttentionBackend:
    """The backend of that name, or with "auto" the fastest that can do what the spec asks.

    Raises:
        ValueError: no such backend; the message lists those there are.
    """
    if name == "auto":
        return TorchAttention(spec)
    if name not in ATTENTION_BACKENDS:
        allowed = ", ".join(["auto", *ATTENTION_BACKENDS])
        raise ValueError(f"attention: must be one of {allowed}, got {name!r}")
    return ATTENTION_BACKENDS[name](spec)
