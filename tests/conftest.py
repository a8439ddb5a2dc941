"""What must be decided before anything is imported."""

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it where kernels are defined: without a GPU they run in its interpreter, on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Tiny matrices are slower on several threads, and far slower where other processes want the cores too.
os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script. Tests interrupt themselves, and what they start inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Random tensors and PyTorch's threads are the same in every run, whatever ran before."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
