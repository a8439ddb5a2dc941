"""The frontend's metrics under the names of vLLM, which dashboards and the gateway's endpoint picker read.

Names: https://docs.vllm.ai/en/stable/usage/metrics/, and of older releases where dashboards still ask for them.
Endpoint picker: https://gateway-api-inference-extension.sigs.k8s.io/, "Model Server Protocol".
"""

from types import MappingProxyType
from typing import Final

from quire.services.common.metrics.metric import Alias, Kind, Metric
from quire.services.common.metrics.outcome import CANCELLED, FINISHED
from quire.services.frontend import metrics

CACHE_CONFIG: Final = Metric(
    "vllm:cache_config_info",
    Kind.GAUGE,
    "1, with the block size and the number of blocks of the largest pool as labels.",
    ("block_size", "num_gpu_blocks"),
    is_constant=True,
    is_shared=True,
    needs="--vllm-metrics",
)
LORA_INFO: Final = Metric(
    "vllm:lora_requests_info",
    Kind.GAUGE,
    "Unix time of this answer, with the adapters of requests as labels, and how many an executor holds at once.",
    ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
    is_shared=True,
    needs="--vllm-metrics",
)
METRICS: Final = (CACHE_CONFIG, LORA_INFO)


def finished_reason(outcome: str) -> str:
    """vLLM's word for how a request ended; its `abort` is also for clients that have gone.

    Source: vllm/v1/engine/__init__.py, FINISH_REASON_STRINGS.
    """
    if outcome in ("aborted", CANCELLED):
        return "abort"
    return outcome if outcome in FINISHED else "error"


ALIASES: Final = (
    Alias("vllm:num_requests_running", metrics.RUNNING),
    Alias("vllm:num_requests_waiting", metrics.WAITING),
    Alias("vllm:kv_cache_usage_perc", metrics.KV_USAGE),
    Alias("vllm:gpu_cache_usage_perc", metrics.KV_USAGE),
    Alias("vllm:num_preemptions_total", metrics.PAUSES),
    Alias("vllm:prefix_cache_queries_total", metrics.PROMPT_TOKENS),
    Alias("vllm:prefix_cache_hits_total", metrics.CACHED_TOKENS),
    Alias("vllm:gpu_prefix_cache_queries_total", metrics.PROMPT_TOKENS),
    Alias("vllm:gpu_prefix_cache_hits_total", metrics.CACHED_TOKENS),
    Alias("vllm:prompt_tokens_total", metrics.PROMPT_TOKENS),
    Alias("vllm:generation_tokens_total", metrics.GENERATION_TOKENS),
    Alias("vllm:request_success_total", metrics.REQUESTS, (("outcome", "finished_reason"),), finished_reason),
    Alias("vllm:request_prompt_tokens", metrics.REQUEST_PROMPT),
    Alias("vllm:request_generation_tokens", metrics.REQUEST_GENERATION),
    Alias("vllm:time_to_first_token_seconds", metrics.FIRST_TOKEN),
    Alias("vllm:inter_token_latency_seconds", metrics.INTER_TOKEN),
    Alias("vllm:time_per_output_token_seconds", metrics.INTER_TOKEN),
    Alias("vllm:request_time_per_output_token_seconds", metrics.PER_TOKEN),
    Alias("vllm:e2e_request_latency_seconds", metrics.DURATION),
    Alias("vllm:request_queue_time_seconds", metrics.QUEUE),
    Alias("vllm:request_inference_time_seconds", metrics.INFERENCE),
    Alias("vllm:request_prefill_time_seconds", metrics.PREFILL),
    Alias("vllm:request_decode_time_seconds", metrics.DECODE),
)
LABELS: Final = MappingProxyType({"engine": "0"})
