"""Every metric of the scheduler."""

from typing import Final

from quire.services.common.metrics.metric import (
    COUNT_BOUNDS,
    LATENCY_BOUNDS,
    PART_BOUNDS,
    RECOVERY_BOUNDS,
    Kind,
    Metric,
)

_EXECUTOR: Final = ("executor",)

BUILD_INFO: Final = Metric(
    "quire_scheduler_build_info", Kind.GAUGE, "1, with what runs as labels.", ("version",), is_constant=True
)
EPOCH: Final = Metric("quire_scheduler_epoch", Kind.GAUGE, "Epoch of this scheduler.", is_constant=True)
FRONTENDS: Final = Metric("quire_scheduler_frontends", Kind.GAUGE, "Frontends, each worker for itself, connected now.")
EXECUTORS: Final = Metric(
    "quire_scheduler_executors", Kind.GAUGE, "Executors attached now: serving, draining, or spare and idle.", ("state",)
)

REQUESTS: Final = Metric(
    "quire_scheduler_requests_total",
    Kind.COUNTER,
    "Accepted requests that have ended: stop, length, aborted (a structured output that failed), cancelled by their "
    "client or frontend, or the error's name.",
    ("outcome",),
)
REFUSALS: Final = Metric(
    "quire_scheduler_refusals_total",
    Kind.COUNTER,
    "Requests that were not accepted, by gRPC code and kind of error.",
    ("code", "reason"),
)
RESUMED: Final = Metric(
    "quire_scheduler_resumed_requests_total",
    Kind.COUNTER,
    "Requests taken over from a scheduler before this one; steps of beam searches count, too.",
)
QUEUE: Final = Metric(
    "quire_scheduler_queue_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival at the scheduler to its first start.",
    bounds=LATENCY_BOUNDS,
)
PREFILL: Final = Metric(
    "quire_scheduler_prefill_seconds",
    Kind.HISTOGRAM,
    "From a request's first start to its first token.",
    bounds=LATENCY_BOUNDS,
)
DECODE: Final = Metric(
    "quire_scheduler_decode_seconds",
    Kind.HISTOGRAM,
    "From a request's first token to its end, pauses and recoveries included.",
    bounds=LATENCY_BOUNDS,
)
FIRST_TOKEN: Final = Metric(
    "quire_scheduler_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival at the scheduler to its first token.",
    bounds=LATENCY_BOUNDS,
)
PER_TOKEN: Final = Metric(
    "quire_scheduler_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Mean time between the tokens of a request that ended, first to last.",
    bounds=LATENCY_BOUNDS,
)
DURATION: Final = Metric(
    "quire_scheduler_request_duration_seconds",
    Kind.HISTOGRAM,
    "From a request's arrival at the scheduler to its end.",
    bounds=LATENCY_BOUNDS,
)

WAITING: Final = Metric("quire_scheduler_sequences_waiting", Kind.GAUGE, "Sequences that wait to start.", _EXECUTOR)
RUNNING: Final = Metric("quire_scheduler_sequences_running", Kind.GAUGE, "Sequences that hold a slot.", _EXECUTOR)
MAX_RUNNING: Final = Metric(
    "quire_scheduler_sequences_max", Kind.GAUGE, "Sequences that may hold a slot at once.", _EXECUTOR, is_constant=True
)
QUEUE_ROOM: Final = Metric(
    "quire_scheduler_queue_room", Kind.GAUGE, "Requests that may still be queued before they are refused.", _EXECUTOR
)
WAITING_TOKENS: Final = Metric(
    "quire_scheduler_context_tokens_waiting",
    Kind.GAUGE,
    "Tokens of prompts, and of texts that go on, that are still to be computed.",
    _EXECUTOR,
)

KV_CAPACITY: Final = Metric(
    "quire_scheduler_kv_blocks_capacity", Kind.GAUGE, "KV blocks of the pool.", _EXECUTOR, is_constant=True
)
KV_BLOCKS: Final = Metric(
    "quire_scheduler_kv_blocks",
    Kind.GAUGE,
    "KV blocks now: free, cached (can be reused or given away), held by sequences.",
    ("executor", "state"),
)
KV_USAGE: Final = Metric("quire_scheduler_kv_usage_ratio", Kind.GAUGE, "Share of KV blocks that are held.", _EXECUTOR)
CACHE_QUERIES: Final = Metric(
    "quire_scheduler_prefix_cache_queried_tokens_total",
    Kind.COUNTER,
    "Context tokens of sequences that started, looked for in the prefix cache.",
    _EXECUTOR,
)
CACHE_HITS: Final = Metric(
    "quire_scheduler_prefix_cache_hit_tokens_total",
    Kind.COUNTER,
    "Of these, found: in whole blocks, or copied from a part of one.",
    _EXECUTOR,
)
EVICTED: Final = Metric(
    "quire_scheduler_evicted_blocks_total", Kind.COUNTER, "Cached blocks given away to make room.", _EXECUTOR
)
PAUSES: Final = Metric(
    "quire_scheduler_pauses_total", Kind.COUNTER, "Sequences paused (preempted) for lack of blocks.", _EXECUTOR
)

STEPS: Final = Metric("quire_scheduler_steps_total", Kind.COUNTER, "Steps planned.", _EXECUTOR)
CONTEXT_TOKENS: Final = Metric(
    "quire_scheduler_context_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts, and of texts that go on, that were computed.",
    _EXECUTOR,
)
GENERATION_TOKENS: Final = Metric(
    "quire_scheduler_generation_tokens_total", Kind.COUNTER, "Tokens generated and given to requests.", _EXECUTOR
)
STEP_TOKENS: Final = Metric(
    "quire_scheduler_step_tokens", Kind.HISTOGRAM, "Tokens computed in a step.", _EXECUTOR, COUNT_BOUNDS
)
STEP_SEQUENCES: Final = Metric(
    "quire_scheduler_step_sequences", Kind.HISTOGRAM, "Sequences computed in a step.", _EXECUTOR, COUNT_BOUNDS
)
SCHEDULE: Final = Metric("quire_scheduler_schedule_seconds", Kind.HISTOGRAM, "Planning a step.", _EXECUTOR, PART_BOUNDS)
COMMIT: Final = Metric(
    "quire_scheduler_ledger_commit_seconds",
    Kind.HISTOGRAM,
    "Committing to the ledger what a step changes: one round trip to Redis. Steps that change nothing do not count.",
    _EXECUTOR,
    PART_BOUNDS,
)
SEND: Final = Metric("quire_scheduler_send_seconds", Kind.HISTOGRAM, "Sending a plan.", _EXECUTOR, PART_BOUNDS)
WAIT: Final = Metric(
    "quire_scheduler_wait_seconds",
    Kind.HISTOGRAM,
    "Waiting for a result once nothing else was left to do; near 0, the executor waits for the scheduler.",
    _EXECUTOR,
    PART_BOUNDS,
)
UPDATE: Final = Metric(
    "quire_scheduler_update_seconds",
    Kind.HISTOGRAM,
    "Taking in a result and handing its tokens to frontends.",
    _EXECUTOR,
    PART_BOUNDS,
)

LEDGER_REFUSALS: Final = Metric(
    "quire_scheduler_ledger_refusals_total",
    Kind.COUNTER,
    "Commits that the ledger refused, lost or did not answer; it is seeded from the mirror then.",
    _EXECUTOR,
)
EVENTS: Final = Metric(
    "quire_scheduler_events_total", Kind.COUNTER, "What has happened to the services around.", ("event",)
)
RECOVERY: Final = Metric(
    "quire_scheduler_recovery_seconds",
    Kind.HISTOGRAM,
    "How long it took to get over a fault: executor (it is attached again), requests (all that ran on a lost executor "
    "make tokens again), ledger (it was seeded).",
    ("kind",),
    RECOVERY_BOUNDS,
)

METRICS: Final = (
    *(BUILD_INFO, EPOCH, FRONTENDS, EXECUTORS),
    *(REQUESTS, REFUSALS, RESUMED, QUEUE, PREFILL, DECODE, FIRST_TOKEN, PER_TOKEN, DURATION),
    *(WAITING, RUNNING, MAX_RUNNING, QUEUE_ROOM, WAITING_TOKENS),
    *(KV_CAPACITY, KV_BLOCKS, KV_USAGE, CACHE_QUERIES, CACHE_HITS, EVICTED, PAUSES),
    *(STEPS, CONTEXT_TOKENS, GENERATION_TOKENS, STEP_TOKENS, STEP_SEQUENCES),
    *(SCHEDULE, COMMIT, SEND, WAIT, UPDATE),
    *(LEDGER_REFUSALS, EVENTS, RECOVERY),
)
