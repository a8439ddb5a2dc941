"""The `KernelSuite`: one implementation of each operation, chosen together for a device."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from quire.kernels.kv_append.torch import kv_append
from quire.kernels.kv_copy.torch import kv_copy
from quire.kernels.rms_norm.torch import add_rms_norm, rms_norm
from quire.kernels.rope.torch import rope
from quire.kernels.sampling.base import SamplingRows
from quire.kernels.sampling.torch import sample
from quire.kernels.silu_mul.torch import silu_mul


@dataclass(frozen=True, slots=True)
class KernelSuite:
    """The operations of one backend; each operation's package documents its arguments.

    Attributes:
        rms_norm: (x, weight, eps) -> normed.
        add_rms_norm: (x, residual, weight, eps) -> (normed, x + residual).
        rope: (q, k, cos_sin, positions) -> None, in place.
        kv_append: (layer_kv, k, v, slot_mapping) -> None, in place.
        kv_copy: (kv, sources, destinations) -> None, in place.
        silu_mul: (gate_up) -> silu(gate) * up.
        sample: (logits, rows) -> token ids.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rope: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    kv_append: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    kv_copy: Callable[[Tensor, Tensor, Tensor], None]
    silu_mul: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, SamplingRows], Tensor]


TORCH_SUITE = KernelSuite(
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    rope=rope,
    kv_append=kv_append,
    kv_copy=kv_copy,
    silu_mul=silu_mul,
    sample=sample,
)
"""The references: any device, any dtype."""
