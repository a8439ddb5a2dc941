"""Judges scheduling policies without a GPU: the real scheduler, an imagined executor, virtual time.

    python benchmarks/simulate.py                                  # policies under 1x to 3x over-subscription
    python benchmarks/simulate.py --trace azure.csv --format azure --jobs 2000
    python benchmarks/simulate.py --chunking FIRST_COME_FIRST_SERVED,EQUAL_PROGRESS --factors 2 --no-plot

Over-subscription is the pool's peak demand, measured with a pool without bound, over its size.
"""

import argparse
from importlib import import_module
from pathlib import Path

from simulator.executor import StepTime
from simulator.job import Job
from simulator.outcome import HEADER, Outcome
from simulator.simulation import Simulation, num_to_completion, peak_demand
from simulator.trace import drawn, parse_slack, recorded

from quire.clients.bench.workload.lengths import parse_lengths
from quire.engine.api.errors import QuireError
from quire.engine.config import SchedulerConfig


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load = parser.add_argument_group("load")
    load.add_argument("--jobs", type=int, default=600, help="requests")
    load.add_argument("--rate", type=float, default=30.0, help="Poisson arrivals per second; inf: all at once")
    load.add_argument("--input", default="lognormal:300:0.9", help="prompt lengths, as in quire bench")
    load.add_argument("--output", default="lognormal:250:0.8", help="output lengths")
    load.add_argument("--slack", type=parse_slack, default="2:4", help="max_tokens over the real length, LOW:HIGH")
    load.add_argument("--seed", type=int, default=0)
    load.add_argument("--trace", type=Path, help="a recorded trace in place of drawn lengths and arrivals")
    load.add_argument("--format", default="azure", choices=("jsonl", "azure", "mooncake"))
    load.add_argument("--speed", type=float, default=1.0, help="replay the trace so many times as fast")
    policy = parser.add_argument_group("scheduler")
    policy.add_argument("--policies", default="GUARANTEED_NO_EVICT,MAX_UTILIZATION,STATIC_BATCH")
    policy.add_argument("--chunking", default="FIRST_COME_FIRST_SERVED", help="that, EQUAL_PROGRESS, or both by comma")
    policy.add_argument("--factors", default="1,1.5,2,3", help="over-subscriptions of the pool")
    policy.add_argument("--batch", type=int, default=256, help="sequences started at once")
    policy.add_argument("--step-tokens", type=int, default=2048, help="token budget of a step")
    policy.add_argument("--check", action="store_true", help="apply every transaction to books and audit them")
    step = parser.add_argument_group("microseconds of a step")
    for name, value in vars(StepTime()).items():
        step.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    parser.add_argument("--plot", type=Path, default=Path("simulation.svg"), help="file to draw (needs matplotlib)")
    parser.add_argument("--no-plot", action="store_true")
    return parser


def jobs_of(args: argparse.Namespace) -> list[Job]:
    if args.trace is not None:
        return recorded(args.trace, args.format, args.jobs, args.slack, args.seed, args.speed)
    inputs, outputs = parse_lengths(args.input, "--input"), parse_lengths(args.output, "--output")
    return drawn(args.jobs, args.rate, inputs, outputs, args.slack, args.seed)


def main() -> None:
    args = parser().parse_args()
    jobs = jobs_of(args)
    step_time = StepTime(**{name: getattr(args, name) for name in vars(StepTime())})
    base = SchedulerConfig(
        max_num_tokens=args.step_tokens,
        max_waiting_requests=len(jobs),
        max_waiting_tokens=sum(len(job.prompt) for job in jobs) + 1,
    )
    demand = peak_demand(jobs, base, step_time, args.batch)
    longest = max(map(num_to_completion, jobs))
    print(f"{len(jobs)} requests, {sum(job.output_len for job in jobs):,} output tokens; peak demand {demand:,} blocks")
    print(HEADER)
    outcomes: dict[tuple[str, float], Outcome] = {}
    for factor in map(float, args.factors.split(",")):
        for policy in args.policies.split(","):
            for chunking in args.chunking.split(","):
                name = policy if "," not in args.chunking else f"{policy}, {chunking}"
                config = SchedulerConfig.model_validate(
                    base.model_dump() | {"capacity_policy": policy, "micro_batch_policy": chunking}
                )
                # Whatever the factor, every request must be able to run alone.
                num_blocks = max(int(demand / factor), longest)
                outcome = Simulation(jobs, config, num_blocks, step_time, args.batch, args.check).run()
                outcomes[name, factor] = outcome
                print(outcome.row(factor, name), flush=True)
    if not args.no_plot:
        import_module("simulator.plot").plot(outcomes, args.plot)
        print(f"drawn: {args.plot}")


if __name__ == "__main__":
    try:
        main()
    except QuireError as error:
        raise SystemExit(f"simulate: {error}") from error
