"""Attention backends by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from quire.kernels.attention.base import AttentionBackend, AttentionSpec
from quire.kernels.attention.torch import TorchAttention

ATTENTION_BACKENDS: Final[Mapping[str, Callable[[AttentionSpec], AttentionBackend]]] = MappingProxyType(
    {"torch": TorchAttention}
)


def attention_backend(
    name: str, spec: AttentionSpec, auto: Callable[[AttentionSpec], AttentionBackend] = TorchAttention
) -> AttentionBackend:
    """The backend of that name, or with "auto" what the suite of kernels in use prefers for the spec.

    Raises:
        ValueError: no such backend; the message lists those there are.
    """
    if name == "auto":
        return auto(spec)
    if name not in ATTENTION_BACKENDS:
        allowed = ", ".join(["auto", *ATTENTION_BACKENDS])
        raise ValueError(f"attention: must be one of {allowed}, got {name!r}")
    return ATTENTION_BACKENDS[name](spec)
