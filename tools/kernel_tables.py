#!/usr/bin/env python3
"""Prints what the backends of kernels declare as tables in Markdown, as docs/kernels.md has them.

python tools/kernel_tables.py
"""

from collections.abc import Sequence

import torch

from quire.kernels.backend import AttentionKernels, Backend, Capability, Requirements, sizes_in_words
from quire.kernels.registry import BACKENDS

_OF_ATTENTION = (
    Capability.SLIDING_WINDOW,
    Capability.LOGITS_SOFT_CAP,
    Capability.SINKS,
    Capability.LATENT,
    Capability.FP8_KV_CACHE,
    Capability.SHARED_PREFIX,
    Capability.CUDA_GRAPHS,
)


def support_tables() -> str:
    """What backends need and can do, then the same of each set of attention kernels."""
    others = [capability for capability in Capability if capability not in _OF_ATTENTION]
    backends = [["`kernels`", "computes", "needs", *others]]
    attention = [["`kernels`", "attention kernels", "types", "heads", "block sizes", *_OF_ATTENTION]]
    for backend in BACKENDS.values():
        backends.append([f"`{backend.name}`", backend.title, _needs(backend.needs), *_marks(backend, others)])
        attention += [
            [f"`{backend.name}`", kernels.name, *_sizes(kernels), *_marks(kernels, _OF_ATTENTION)]
            for kernels in backend.attention
        ]
    return f"{_markdown(backends)}\n\n{_markdown(attention)}"


def _needs(needs: Requirements) -> str:
    version = ".".join(map(str, needs.compute_capability or ()))
    parts = (
        {"cpu": "a CPU", "cuda": "an NVIDIA GPU", None: ""}[needs.device_type],
        f"of compute capability {version} or later" if version else "",
        f"with {', '.join(sorted(needs.instruction_sets))}" if needs.instruction_sets else "",
        _types(needs.dtypes) if needs.dtypes else "",
        f"{' and '.join(needs.packages)} (extra `{needs.extra}`)" if needs.packages else "",
    )
    return "; ".join(part for part in parts if part) or "nothing"


def _sizes(kernels: AttentionKernels) -> tuple[str, str, str]:
    return (
        _types(kernels.dtypes) if kernels.dtypes else "any",
        _heads(kernels),
        "any" if kernels.block_size_step == 1 else f"multiples of {kernels.block_size_step}",
    )


def _heads(kernels: AttentionKernels) -> str:
    values = f", values of {sizes_in_words(kernels.value_dims)}" if kernels.required and kernels.value_dims else ""
    return ("any" if kernels.head_dims is None else sizes_in_words(kernels.head_dims)) + values


def _types(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _marks(of: Backend | AttentionKernels, capabilities: Sequence[Capability]) -> list[str]:
    return ["yes" if capability in of.capabilities else "no" for capability in capabilities]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join((heading, "|---" * len(rows[0]) + "|", *others))


if __name__ == "__main__":
    print(support_tables())
