#!/usr/bin/env python3
"""What beam search costs: tokens per second of its answers against as many sampled answers to one prompt, in turns.

  python benchmarks/beam_search.py [--model FOLDER] [--width 4] [--prompt 128] [--tokens 128] [--rounds 5]
      [--device auto]

Both are asked of `LLM`, and all answers have the same length. Medians, and the smallest and largest of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

from quire import LLM, BeamSearchParams, SamplingParams
from quire.engine.api.completion import Completion
from quire.engine.demo_model import DEMO_MODEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    prompt = [100 + index % 150 for index in range(args.prompt)]
    beams = BeamSearchParams(args.width, args.tokens, early_stopping=True, ignore_eos=True)  # type: ignore[arg-type]
    sampled = SamplingParams(seed=0, max_tokens=args.tokens, ignore_eos=True)
    with LLM(model=args.model, device=args.device) as llm:
        ways: dict[str, Callable[[], Sequence[Completion]]] = {
            "beam search": lambda: llm.beam_search([prompt], beams)[0],
            "sampling": lambda: llm.generate([prompt], sampled, n=args.width),
        }
        rounds = [{name: speed(way) for name, way in ways.items()} for _ in range(args.rounds + 1)][1:]
    print(f"{args.width} answers of {args.tokens} tokens, behind a prompt of {args.prompt}")
    print("| | tokens/s |")
    print("|---|---|")
    for name in ways:
        print(f"| {name} | {spread([each[name] for each in rounds], 0)} |")
    print(f"| beam search / sampling | {spread([each['beam search'] / each['sampling'] for each in rounds], 2)} |")


def speed(way: Callable[[], Sequence[Completion]]) -> float:
    """Tokens of all answers per second."""
    started = time.perf_counter()
    answers = way()
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - started)


def spread(values: Sequence[float], digits: int) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
