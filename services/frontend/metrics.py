"""Every metric of the frontend. All have the label `model_name`."""

from typing import Final

from quire.services.common.metrics.metric import COUNT_BOUNDS, LATENCY_BOUNDS, RECOVERY_BOUNDS, Kind, Metric

BUILD_INFO: Final = Metric(
    "quire_frontend_build_info",
    Kind.GAUGE,
    "1, with what runs as labels.",
    ("version",),
    is_constant=True,
    is_shared=True,
)

REQUESTS: Final = Metric(
    "quire_frontend_requests_total",
    Kind.COUNTER,
    "Accepted requests that have ended: stop, length, aborted (by `Abort` or their deadline), cancelled by their "
    "client, or the error's name. Each answer of `n` is one.",
    ("outcome",),
)
REFUSALS: Final = Metric(
    "quire_frontend_refusals_total",
    Kind.COUNTER,
    "Calls and requests that were answered with an error of ours, by gRPC code and kind of error; of HTTP, those of "
    "POST.",
    ("code", "reason"),
)
SERVING: Final = Metric("quire_frontend_serving", Kind.GAUGE, "1 while tokens can be made, else 0.")
OPEN: Final = Metric("quire_frontend_open_requests", Kind.GAUGE, "Requests whose calls have not ended.")

FIRST_TOKEN: Final = Metric(
    "quire_frontend_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival, before its prompt is tokenized, to its first token.",
    bounds=LATENCY_BOUNDS,
)
INTER_TOKEN: Final = Metric(
    "quire_frontend_inter_token_latency_seconds",
    Kind.HISTOGRAM,
    "Between one token and the next, as streams get them: tokens that come together share the time since those before. "
    "Of an answer in one piece, the mean for each of its tokens.",
    bounds=LATENCY_BOUNDS,
)
PER_TOKEN: Final = Metric(
    "quire_frontend_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Mean time between the tokens of a request that ended, first to last.",
    bounds=LATENCY_BOUNDS,
)
DURATION: Final = Metric(
    "quire_frontend_request_duration_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival to its end, however it ended.",
    bounds=LATENCY_BOUNDS,
)
QUEUE: Final = Metric(
    "quire_frontend_queue_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival at the scheduler to its first start.",
    bounds=LATENCY_BOUNDS,
)
PREFILL: Final = Metric(
    "quire_frontend_prefill_seconds",
    Kind.HISTOGRAM,
    "From a request's first start to its first token here, the way between the services included.",
    bounds=LATENCY_BOUNDS,
)
DECODE: Final = Metric(
    "quire_frontend_decode_seconds",
    Kind.HISTOGRAM,
    "From a request's first token to its end.",
    bounds=LATENCY_BOUNDS,
)
INFERENCE: Final = Metric(
    "quire_frontend_inference_seconds",
    Kind.HISTOGRAM,
    "From a request's first start to its end: prefill and decode.",
    bounds=LATENCY_BOUNDS,
)

PROMPT_TOKENS: Final = Metric(
    "quire_frontend_prompt_tokens_total", Kind.COUNTER, "Tokens of the prompts of requests that have started."
)
CACHED_TOKENS: Final = Metric(
    "quire_frontend_cached_prompt_tokens_total", Kind.COUNTER, "Of these, found in the prefix cache."
)
GENERATION_TOKENS: Final = Metric(
    "quire_frontend_generation_tokens_total", Kind.COUNTER, "Tokens generated, those of beam searches' steps included."
)
TENANT_TOKENS: Final = Metric(
    "quire_frontend_tenant_tokens_total",
    Kind.COUNTER,
    "Tokens computed for requests of each tenant of the file of API keys: of prompts (context), without those found in "
    "the cache, when requests start; of answers (generated), when they end.",
    ("tenant", "kind"),
    needs="API keys",
)
REQUEST_PROMPT: Final = Metric(
    "quire_frontend_request_prompt_tokens", Kind.HISTOGRAM, "Tokens of a request's prompt.", bounds=COUNT_BOUNDS
)
REQUEST_GENERATION: Final = Metric(
    "quire_frontend_request_generation_tokens",
    Kind.HISTOGRAM,
    "Tokens generated for a request that ended.",
    bounds=COUNT_BOUNDS,
)

EXECUTORS: Final = Metric(
    "quire_frontend_executors",
    Kind.GAUGE,
    "Executors that can take requests; 0 also while no scheduler is connected.",
    is_shared=True,
)
WAITING: Final = Metric(
    "quire_frontend_sequences_waiting",
    Kind.GAUGE,
    "Sequences of all frontends that wait at the scheduler: the queue depth to scale by.",
    is_shared=True,
)
RUNNING: Final = Metric(
    "quire_frontend_sequences_running",
    Kind.GAUGE,
    "Sequences of all frontends that run on executors.",
    is_shared=True,
)
KV_USAGE: Final = Metric(
    "quire_frontend_kv_usage_ratio",
    Kind.GAUGE,
    "Share of the KV blocks of all executors that sequences hold.",
    is_shared=True,
)
PAUSES: Final = Metric(
    "quire_frontend_pauses_total",
    Kind.COUNTER,
    "Sequences of all frontends paused (preempted) for lack of blocks.",
    is_shared=True,
)
RECOVERY: Final = Metric(
    "quire_frontend_recovery_seconds",
    Kind.HISTOGRAM,
    "How long it took to get over a fault: scheduler (open requests were submitted again to the one that came next).",
    ("kind",),
    RECOVERY_BOUNDS,
)

HTTP_REQUESTS: Final = Metric(
    "quire_frontend_http_requests_total",
    Kind.COUNTER,
    "HTTP requests answered, by route and status; those to no route are of the route `other`. 499: its client had "
    "left.",
    ("method", "route", "status"),
)
HTTP_CONNECTIONS: Final = Metric("quire_frontend_http_connections", Kind.GAUGE, "HTTP connections open now.")

METRICS: Final = (
    *(BUILD_INFO, SERVING, REQUESTS, REFUSALS, OPEN),
    *(FIRST_TOKEN, INTER_TOKEN, PER_TOKEN, DURATION, QUEUE, PREFILL, DECODE, INFERENCE),
    *(PROMPT_TOKENS, CACHED_TOKENS, GENERATION_TOKENS, TENANT_TOKENS, REQUEST_PROMPT, REQUEST_GENERATION),
    *(EXECUTORS, WAITING, RUNNING, KV_USAGE, PAUSES, RECOVERY, HTTP_REQUESTS, HTTP_CONNECTIONS),
)
