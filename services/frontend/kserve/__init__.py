"""The Open Inference Protocol (KServe v2) over gRPC, with the tensor names of Triton's backends for language models."""
