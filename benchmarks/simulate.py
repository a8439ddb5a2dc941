"""Judges scheduling policies without a GPU: the real scheduler, an imagined executor, virtual time.

    python benchmarks/simulate.py                          # policies under 1x, 1.5x, 2x and 3x over-subscription
    python benchmarks/simulate.py --trace azure.csv --format azure --jobs 2000
    python benchmarks/simulate.py --plot policies.svg      # needs matplotlib

Over-subscription is how many times the pool is too small for a full batch of average sequences.
"""

import argparse
from pathlib import Path

import numpy as np
from simulator.executor import StepTime
from simulator.plot import plot
from simulator.simulation import Outcome, simulate
from simulator.trace import lognormal, pool_size, recorded

from quire.engine.config import SchedulerConfig

POLICIES = ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH")
HEADER = (
    "| factor | policy | tok/s | req/s | TTFT p50/p90/p99, s | ITL p50/p90/p99, ms | pauses | recomputed | pool held |"
)


def row(factor: float, policy: str, outcome: Outcome) -> str:
    ttft = "/".join(f"{value / 1e6:.2f}" for value in np.percentile(outcome.ttft, (50, 90, 99)))
    itl = "/".join(f"{value / 1e3:.1f}" for value in np.percentile(outcome.itl, (50, 90, 99)))
    requests = outcome.num_requests / outcome.duration * 1e6
    recomputed = outcome.num_recomputed / outcome.num_tokens
    return (
        f"| {factor:g} | {policy} | {outcome.tokens_per_second:,.0f} | {requests:.1f} | {ttft} | {itl} "
        f"| {outcome.num_pauses} | {recomputed:.1%} | {np.mean(outcome.usage):.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="a recorded trace instead of generated lengths")
    parser.add_argument("--format", default="jsonl", choices=("jsonl", "azure", "mooncake"))
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: all at once")
    parser.add_argument("--slack", type=float, default=3.0, help="max_tokens over the real output length")
    parser.add_argument("--factors", default="1,1.5,2,3")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--chunking", default="FIRST_COME_FIRST_SERVED", help="or EQUAL_PROGRESS")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="write throughput and latency curves to this file")
    args = parser.parse_args()
    jobs = (
        recorded(args.trace, args.format, args.slack, args.jobs)
        if args.trace
        else lognormal(args.jobs, args.rate, args.slack, args.seed)
    )
    outcomes: dict[tuple[str, float], Outcome] = {}
    print(HEADER + "\n|" + "---|" * 9)
    for factor in map(float, args.factors.split(",")):
        for policy in args.policies.split(","):
            config = SchedulerConfig(
                capacity_policy=policy,
                context_chunking=args.chunking,
                max_batch_size=args.batch,
                max_waiting_requests=len(jobs),
                max_waiting_tokens=10**9,
            )
            outcome = simulate(jobs, config, pool_size(jobs, args.batch, factor), StepTime())
            outcomes[policy, factor] = outcome
            print(row(factor, policy, outcome), flush=True)
    if args.plot:
        plot(outcomes, args.plot)


if __name__ == "__main__":
    main()
