#!/usr/bin/env python3
"""What structured output costs: time per output token with a JSON schema against without, in turns.

  python benchmarks/structured_output.py [--model FOLDER] [--streams 32] [--tokens 128] [--rounds 6] [--device auto]

All streams generate the same number of tokens in `LLM`. The schema is a list of objects that has no end within them. It
is compiled before the first round; what that takes is printed too. Medians, and the smallest and largest of the rounds.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import NamedTuple

from quire import LLM, SamplingParams, StructuredOutput
from quire.engine.demo_model import DEMO_MODEL

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["author", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,8}$"}, "maxItems": 4},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
        },
    },
    "required": ["name", "age", "role", "tags", "address"],
}
_SCHEMA = {"type": "array", "items": _PERSON, "minItems": 10_000}


class Cost(NamedTuple):
    """Milliseconds per token: of the clock, and of all cores together."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    free = SamplingParams(temperature=1.0, seed=0, max_tokens=args.tokens, ignore_eos=True)
    held = replace(free, structured_output=StructuredOutput(json_schema=json.dumps(_SCHEMA)))
    prompts = [f"# {index}\npeople = " for index in range(args.streams)]
    with LLM(model=args.model, device=args.device, max_batch_size=args.streams) as llm:

        def per_token(params: SamplingParams) -> Cost:
            wall, cpu = time.perf_counter(), time.process_time()
            answers = llm.generate(prompts, params)
            assert all(len(answer.token_ids) == args.tokens for answer in answers)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            return Cost(*(1e3 * seconds / args.tokens for seconds in spent))

        per_token(free)
        started = time.perf_counter()
        llm.generate(prompts[:1], replace(held, max_tokens=1))
        first = time.perf_counter() - started
        per_token(held)
        rounds = [(per_token(free), per_token(held)) for _ in range(args.rounds)]
    print(f"{args.streams} streams of {args.tokens} tokens; the first answer with the schema came after {first:.2f} s")
    print("| | ms per token | CPU, ms per token |")
    print("|---|---|---|")
    without, with_it = zip(*rounds, strict=True)
    for name, costs in (("without", without), ("with the schema", with_it)):
        print(f"| {name} | {spread([cost.wall for cost in costs], 2)} | {spread([cost.cpu for cost in costs], 2)} |")
    times = [held.wall / free.wall for free, held in rounds], [held.cpu / free.cpu for free, held in rounds]
    print(f"| with / without | {spread(times[0], 3)} | {spread(times[1], 3)} |")


def spread(values: list[float], digits: int) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
