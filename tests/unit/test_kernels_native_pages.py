"""Memory in huge pages: zeros, in the right place, advised, there already, alive as long as somebody looks at it."""

import gc
import mmap
import resource
import threading
from pathlib import Path

import pytest
import torch

from quire.kernels.native.pages import TOUCHING, Arena, zeros

HUGE = 2 << 20
LINUX = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="needs Linux")


def flags_at(address: int) -> list[str]:
    """The flags of the mapping that an address is in."""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            is_there = begin <= address < end
        elif is_there and first == "VmFlags:":
            return rest.split()
    return []


@LINUX
def test_zeros_are_advised_to_lie_in_huge_pages() -> None:
    x = zeros((3, 5, 700), torch.bfloat16)
    assert x.shape == (3, 5, 700)
    assert x.dtype == torch.bfloat16
    assert x.is_contiguous()
    assert not x.any()
    assert x.data_ptr() % HUGE == 0
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert "hg" in flags_at(x.data_ptr())


@LINUX
def test_nobody_waits_for_a_page_of_zeros_later() -> None:
    """A step that is the first to write to a page would wait until the system has cleared it."""
    x = zeros((64 << 20,), torch.uint8)
    for thread in threading.enumerate():
        if thread.name == TOUCHING:
            thread.join()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    x.fill_(1)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < 16


@LINUX
def test_a_system_without_huge_pages_gives_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999)
    assert not zeros((1000,), torch.float32).any()


def test_tensors_of_an_arena_do_not_overlap() -> None:
    arena = Arena()
    sizes = (1, 63, 64, 1000, 70 << 20, 5)
    tensors = [arena.empty(size, torch.int8).fill_(i + 1) for i, size in enumerate(sizes)]
    del arena
    gc.collect()
    for i, (size, tensor) in enumerate(zip(sizes, tensors, strict=True)):
        assert len(tensor) == size
        assert tensor.data_ptr() % 64 == 0
        assert bool((tensor == i + 1).all())
