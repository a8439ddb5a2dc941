"""Writes docs/reference/metrics.md from the definitions of the services' metrics.

python tools/metrics_reference.py docs/reference/metrics.md
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from quire.services.common.metrics.metric import Alias, Metric
from quire.services.executor import metrics as executor
from quire.services.frontend import metrics as frontend
from quire.services.frontend import vllm_metrics
from quire.services.scheduler import metrics as scheduler

INTRODUCTION = """# Metrics

<!-- Written by `make reference` from services/*/metrics.py; edit those. -->

What each service exports in Prometheus' text format. [Metrics](../metrics.md) says where, and what to look at. Times
are in seconds, sizes in bytes; a histogram `x` has the series `x_bucket`, `x_count` and `x_sum`. Every process also has
`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_start_time_seconds`, `process_open_fds` and `process_max_fds`.
"""
FRONTEND = "Each has the label `model_name`. With several workers, what is not the same for all has the label `worker`."
VLLM = """With `--vllm-metrics` the frontend also exports these. Each has the label `engine`, which is 0. A name that
vLLM gave up is exported for dashboards that still ask for it."""


def metrics_page() -> str:
    """The whole page."""
    own = [f"| `{metric.name}` | {metric.help} |" for metric in vllm_metrics.METRICS]
    aliases = [f"| `{alias.name}` | {_alias(alias)} |" for alias in vllm_metrics.ALIASES]
    return "\n".join(
        [
            INTRODUCTION,
            *("## Frontend\n", f"{FRONTEND}\n", *_table(frontend.METRICS)),
            *("\n## Scheduler\n", *_table(scheduler.METRICS)),
            *("\n## Executor\n", *_table(executor.METRICS)),
            *("\n## vLLM's names\n", f"{VLLM}\n", "| name | is |", "|---|---|", *aliases, *own, ""),
        ]
    )


def _table(metrics: Iterable[Metric]) -> list[str]:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {_labels(metric)} | {metric.help}{_needs(metric)} |" for metric in metrics
    ]
    return ["| name | type | labels | meaning |", "|---|---|---|---|", *rows]


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels)


def _needs(metric: Metric) -> str:
    return f" Needs {metric.needs}." if metric.needs else ""


def _alias(alias: Alias) -> str:
    labels = "".join(f", with `{theirs}` for `{ours}`" for ours, theirs in alias.renamed)
    words = " in vLLM's words" if alias.values is not None else ""
    return f"`{alias.of.name}`{labels}{words}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(metrics_page())
