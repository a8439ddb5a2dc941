"""Programmatic dependent launch: a kernel is set up while the one before it ends (Hopper and newer).

A kernel that is launched with `launch_pdl` calls `follow` before it touches what another has written. The next may
then start at once: it waits in turn until this one is over.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl


@triton.jit
def follow(overlaps: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for the kernel before, and let the next one be set up."""
    if overlaps:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def can_overlap(tensor: Tensor) -> bool:
    """Whether the tensor's device launches kernels so."""
    return tensor.is_cuda and torch.cuda.get_device_capability(tensor.device) >= (9, 0)
