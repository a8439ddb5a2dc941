"""Every metric of the executor."""

from typing import Final

from quire.services.common.metrics.metric import COUNT_BOUNDS, PART_BOUNDS, Kind, Metric

BUILD_INFO: Final = Metric(
    "quire_executor_build_info",
    Kind.GAUGE,
    "1, with what runs as labels.",
    ("version", "model", "device", "dtype"),
    is_constant=True,
)
ATTACHED: Final = Metric("quire_executor_attached", Kind.GAUGE, "1 while a scheduler drives this executor, else 0.")
EPOCH: Final = Metric("quire_executor_epoch", Kind.GAUGE, "Epoch of the scheduler that this executor obeys.")
STEPS: Final = Metric("quire_executor_steps_total", Kind.COUNTER, "Steps computed.")
COMPUTE: Final = Metric(
    "quire_executor_step_compute_seconds",
    Kind.HISTOGRAM,
    "Time that the device takes for a step, from its first kernel to its last.",
    bounds=PART_BOUNDS,
)
LAUNCH: Final = Metric(
    "quire_executor_launch_seconds",
    Kind.HISTOGRAM,
    "Time that the host takes to launch a step; on a CPU it computes the step in this time.",
    bounds=PART_BOUNDS,
)
TOKENS: Final = Metric(
    "quire_executor_tokens_total", Kind.COUNTER, "Tokens computed: of context or in generation.", ("phase",)
)
STEP_TOKENS: Final = Metric(
    "quire_executor_step_tokens", Kind.HISTOGRAM, "Tokens computed in a step.", bounds=COUNT_BOUNDS
)
KV_CAPACITY: Final = Metric("quire_executor_kv_blocks_capacity", Kind.GAUGE, "KV blocks of the pool.", is_constant=True)
KV_BYTES: Final = Metric(
    "quire_executor_kv_cache_bytes", Kind.GAUGE, "Memory that the KV pool takes.", is_constant=True
)
DEVICE_MEMORY: Final = Metric(
    "quire_executor_device_memory_bytes",
    Kind.GAUGE,
    "Memory of the GPU: total, free, and of what this process takes: allocated to tensors, reserved for them.",
    ("state",),
    needs="a GPU",
)

METRICS: Final = (
    *(BUILD_INFO, ATTACHED, EPOCH, STEPS, COMPUTE, LAUNCH, TOKENS, STEP_TOKENS),
    *(KV_CAPACITY, KV_BYTES, DEVICE_MEMORY),
)
