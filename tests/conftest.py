"""What must be decided before anything is imported."""

import os

import torch

if not torch.cuda.is_available():
    # Triton reads it where kernels are defined: without a GPU they run in its interpreter, on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"
