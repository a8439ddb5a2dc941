"""What runs on an NVIDIA GPU: FlashInfer's attention, Triton kernels around it, PyTorch's products and sampling."""
