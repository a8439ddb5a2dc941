"""The `Attention` layer: queries over the layer's paged KV cache."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.layers.build import Build
from quire.engine.layers.cache_scales import CacheScales
from quire.kernels.attention import AttentionBackend, AttentionSpec

_ValuesT = TypeVar("_ValuesT", Tensor, Tensor | None)

Cut: TypeAlias = Callable[["Attention", Tensor], Tensor]
"""(layer, queries) -> what is attended to: computes in place of the backend."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What attention of one layer is, wherever it is computed.

    Attributes:
        num_qo_heads, num_kv_heads, head_dim: sizes.
        window: positions that a query sees, itself included; None: all up to its own.
        scale: of the scores; None: 1 / sqrt(head_dim).
        soft_cap: scores x become cap * tanh(x / cap); None: they stay.
        value_dim: a value is the first numbers of its key, which alone is in the cache; None: they are two.
        has_sinks: each query head has a logit that counts in its softmax, but has no value.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    scale: float | None = None
    soft_cap: float | None = None
    has_sinks: bool = False
    value_dim: int | None = None

    def spec(self, block_size: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device) -> AttentionSpec:
        """What a backend is built from."""
        return AttentionSpec(
            num_qo_heads=self.num_qo_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            block_size=block_size,
            dtype=dtype,
            device=device,
            sliding_window=self.window,
            kv_dtype=kv_dtype,
            scale=self.scale,
            logits_soft_cap=self.soft_cap,
            has_sinks=self.has_sinks,
            value_dim=self.value_dim,
        )

    def kv_shape(self, block_size: int) -> tuple[int, ...]:
        """Of a block of the layer's cache: keys before values, if it has any."""
        return (2 if self.value_dim is None else 1, block_size, self.num_kv_heads, self.head_dim)


class Attention:
    """Appends keys and values of new tokens to the cache, then attends to it.

    Attributes:
        backend: planned by the caller before every step.
        layer_kv: the layer's part of the cache. Both are there once `bind` was called.
        sinks: float32 [num_qo_heads], None without them; there once the weights are.
        cut: None, or what computes in place of the backend, behind `append`.
    """

    def __init__(self, build: Build, shape: AttentionShape, scales: CacheScales | None = None) -> None:
        """A window that holds every sequence is none.

        Args:
            scales: of keys and values in an fp8 cache; None: 1.

        Raises:
            StartupError: the window holds no token.
        """
        self._scales = scales
        if shape.window is not None and shape.window < 1:
            raise StartupError(f"model configuration: sliding_window must be above 0, got {shape.window}")
        self.shape = shape
        build.attention.append(self)
        self.cut: Cut | None = None
        self.sinks: Tensor | None = None
        self.backend: AttentionBackend
        self.layer_kv: Tensor

    def take_sinks(self, name: str, tensor: Tensor) -> None:
        """Of the checkpoint."""
        self.sinks = tensor.float().contiguous()

    def bind(self, backend: AttentionBackend, layer_kv: Tensor) -> None:
        """Give it what it computes with."""
        self.backend, self.layer_kv = backend, layer_kv

    def __call__(self, q: Tensor, k: Tensor, v: Tensor | None) -> Tensor:
        """[num_tokens, num_qo_heads, head_dim] of q; k and v are [num_tokens, num_kv_heads, head_dim].

        Of a latent cache there are no values, and the result has heads of `value_dim`.
        """
        q, k, v = self._scaled(q, k, v)
        self.backend.append(self.layer_kv, k, v)
        return self._attend(q)

    def rotated(self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> Tensor:
        """Alike, of queries and keys that are rotated on the way, see `quire.kernels.rope`."""
        q, k, v = self._scaled(q, k, v)
        self.backend.rotate_append(self.layer_kv, q, k, v, cos_sin)
        return self._attend(q)

    def _attend(self, q: Tensor) -> Tensor:
        found = self.backend.run(self.layer_kv, q, sinks=self.sinks) if self.cut is None else self.cut(self, q)
        return found if (scales := self._applied_scales) is None else found * scales.values

    @property
    def _applied_scales(self) -> CacheScales | None:
        """Only a narrow cache needs them."""
        scales = self._scales
        if scales is None or self.layer_kv.dtype != torch.float8_e4m3fn:
            return None
        return None if scales.keys == scales.values == 1 else scales

    def _scaled(self, q: Tensor, k: Tensor, v: _ValuesT) -> tuple[Tensor, Tensor, _ValuesT]:
        """Keys and values as the cache has them; scores stay what they are."""
        scales = self._applied_scales
        if scales is None:
            return q, k, v
        return q * scales.keys, k / scales.keys, v if v is None else v / scales.values


def window_within(window: int | None, max_model_len: int) -> int | None:
    """The window, or None if every sequence fits in."""
    return None if window is None or window >= max_model_len else window
