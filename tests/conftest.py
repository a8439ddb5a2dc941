"""What must be decided before anything is imported."""

import os
import signal

import pytest
import torch

from quire.services.up import ports
from support.worker_ports import WorkerPorts

if not torch.cuda.is_available():
    # Triton reads it where kernels are defined: without a GPU they run in its interpreter, on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Tiny matrices are slower on several threads, and far slower where other processes want the cores too.
os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script. Tests interrupt themselves, and what they start inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


torch.set_num_threads(1)

# Before modules import it by its name.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
pytest.MonkeyPatch().setattr(ports, "free_port", WorkerPorts(_WORKER, _COUNT))


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Random tensors and PyTorch's threads are the same in every run, whatever ran before."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
