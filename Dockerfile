# An image for each service: docker build --target frontend|scheduler|executor-cpu|executor-gpu .
# compose.yaml builds and starts them. Neither BuildKit nor a network beyond package registries is needed.
#
# What changes rarely lies below what changes often: packages of others, then compiled kernels, then Quire itself.
# A builder without BuildKit makes every stage above the one that is asked for, so the largest are the last.

FROM python:3.11-slim-bookworm AS environment
RUN python -m venv --without-pip /opt/quire

# What each extra needs, in a file of its own: a change of Quire installs nothing again.
FROM python:3.11-slim-bookworm AS requirements
COPY pyproject.toml tools/requirements.py /src/
RUN python /src/requirements.py /src/pyproject.toml /requirements

# Quire without what it needs; /opt/quire of two stages may be laid over each other.
FROM environment AS quire
COPY . /src
RUN pip --python /opt/quire/bin/python install --no-cache-dir --no-deps /src

# What all images have in common. Root may be read-only: what is written goes to the two folders, or to /tmp.
FROM python:3.11-slim-bookworm AS service
RUN mkdir -p /models /cache && chown 10001:10001 /models /cache
ENV PATH=/opt/quire/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/models/huggingface \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["quire"]
LABEL org.opencontainers.image.title="Quire" \
      org.opencontainers.image.description="An LLM inference server taken apart into gRPC services" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM environment AS frontend-packages
COPY --from=requirements /requirements/frontend.txt /requirements/tracing.txt /requirements/
RUN pip --python /opt/quire/bin/python install --no-cache-dir \
    --requirement /requirements/frontend.txt --requirement /requirements/tracing.txt

FROM service AS frontend
COPY --from=frontend-packages /opt/quire /opt/quire
COPY --from=quire /opt/quire /opt/quire
ENV QUIRE_FRONTEND_LISTEN=0.0.0.0:8001 QUIRE_FRONTEND_HTTP_LISTEN=0.0.0.0:8000
EXPOSE 8000 8001
HEALTHCHECK --start-period=60s --interval=10s --timeout=8s CMD ["quire", "health", "127.0.0.1:8001"]
CMD ["frontend"]
LABEL org.opencontainers.image.title="Quire frontend"

FROM environment AS scheduler-packages
COPY --from=requirements /requirements/scheduler.txt /requirements/kv-events.txt /requirements/tracing.txt /requirements/
RUN pip --python /opt/quire/bin/python install --no-cache-dir \
    --requirement /requirements/scheduler.txt --requirement /requirements/kv-events.txt \
    --requirement /requirements/tracing.txt

FROM service AS scheduler
COPY --from=scheduler-packages /opt/quire /opt/quire
COPY --from=quire /opt/quire /opt/quire
ENV QUIRE_SCHEDULER_LISTEN=0.0.0.0:8002
EXPOSE 8002
# A standby does not serve, and is well.
HEALTHCHECK --start-period=60s --interval=10s --timeout=8s CMD ["quire", "health", "--service", "live", "127.0.0.1:8002"]
CMD ["scheduler"]
LABEL org.opencontainers.image.title="Quire scheduler"

# The C++ kernels for every level of instructions; an executor loads the widest that its processor runs.
FROM python:3.11-slim-bookworm AS kernels
RUN apt-get update && apt-get install --yes --no-install-recommends g++
COPY kernels /src/quire/kernels
RUN cd /src && python -m quire.kernels.native.shipped /made/lib

FROM quire AS quire-with-kernels
COPY --from=kernels /made /made
RUN cp -r /made/lib /opt/quire/lib/python3*/site-packages/quire/kernels/native/

FROM environment AS executor-cpu-packages
COPY --from=requirements /requirements/executor.txt /requirements/tracing.txt /requirements/
# PyTorch's own index has builds for CPUs, a tenth of the size of those for GPUs.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN pip --python /opt/quire/bin/python install --no-cache-dir --no-deps --index-url $TORCH_CPU_INDEX \
    "$(grep ^torch /requirements/executor.txt)"
RUN pip --python /opt/quire/bin/python install --no-cache-dir \
    --requirement /requirements/executor.txt --requirement /requirements/tracing.txt
# xgrammar asks for Triton, and needs it on GPUs only: a gigabyte. Then what serves to compile against PyTorch, and its tests.
RUN cd /opt/quire/lib/python3*/site-packages \
 && rm -rf triton triton-* torch/include torch/share torch/test torch/bin/test_*

FROM service AS executor-cpu
COPY --from=executor-cpu-packages /opt/quire /opt/quire
COPY --from=quire-with-kernels /opt/quire /opt/quire
ENV QUIRE_EXECUTOR_LISTEN=0.0.0.0:8003
EXPOSE 8003
HEALTHCHECK --start-period=300s --interval=10s --timeout=8s CMD ["quire", "health", "127.0.0.1:8003"]
CMD ["executor"]
LABEL org.opencontainers.image.title="Quire executor for CPUs"

FROM environment AS executor-gpu-packages
COPY --from=requirements /requirements/gpu.txt /requirements/tracing.txt /requirements/
RUN pip --python /opt/quire/bin/python install --no-cache-dir \
    --requirement /requirements/gpu.txt --requirement /requirements/tracing.txt
# FlashInfer's kernels compiled ahead, for PyTorch's version of CUDA; nvcc is not needed then.
ARG FLASHINFER_INDEX=https://flashinfer.ai/whl/cu130
RUN version=$(/opt/quire/bin/python -c 'from importlib.metadata import version; print(version("flashinfer-python"))') \
 && pip --python /opt/quire/bin/python install --no-cache-dir --no-deps "flashinfer-cubin==$version" \
 && pip --python /opt/quire/bin/python install --no-cache-dir --no-deps --index-url $FLASHINFER_INDEX \
    "flashinfer-jit-cache==$version"
RUN cd /opt/quire/lib/python3*/site-packages && rm -rf torch/test torch/bin/test_*

FROM service AS executor-gpu
USER root
# Triton compiles the launcher of each kernel with it; the results are kept in /cache.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=executor-gpu-packages /opt/quire /opt/quire
COPY --from=quire-with-kernels /opt/quire /opt/quire
ENV QUIRE_EXECUTOR_LISTEN=0.0.0.0:8003 \
    QUIRE_EXECUTOR_DEVICE=cuda \
    TRITON_CACHE_DIR=/cache/triton \
    FLASHINFER_WORKSPACE_BASE=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8003
HEALTHCHECK --start-period=900s --interval=10s --timeout=8s CMD ["quire", "health", "127.0.0.1:8003"]
CMD ["executor"]
LABEL org.opencontainers.image.title="Quire executor for NVIDIA GPUs"
