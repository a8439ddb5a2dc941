#!/usr/bin/env python3
"""Shows from the services' own trace that steps overlap: what the scheduler does while the executor computes.

  python benchmarks/timeline.py FOLDER [--width 100] [--steps 4] [--join FILE]

FOLDER is what `quire up --trace-dir FOLDER` filled. Prints how long the executor computes, and how long it idles
between steps. Prints how much of the scheduler's work and of the ledger's commit lies within a computation. All but the
first and last tenth of the steps count. Draws some steps. --join writes one file for Perfetto or about:tracing.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

ROWS = {"execute": "█", "schedule": "s", "commit": "c", "send": ">", "update": "u"}
Span = tuple[float, float]


def read(folder: Path) -> list[dict[str, Any]]:
    """Every event of every process."""
    return [event for path in sorted(folder.glob("*.json")) for event in json.loads(path.read_text() + "]")]


def spans(events: list[dict[str, Any]], name: str) -> dict[int, Span]:
    """Step → (begin, end) in microseconds."""
    return {e["args"]["step"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == name}


def covered(span: Span, others: list[Span]) -> float:
    """Microseconds of a span that lie within others, which do not overlap."""
    return sum(max(0.0, min(span[1], end) - max(span[0], begin)) for begin, end in others)


def draw(events: list[dict[str, Any]], first: float, last: float, width: int) -> str:
    lines = []
    for name, mark in ROWS.items():
        cells = [" "] * width
        for begin, end in spans(events, name).values():
            if begin < last and end > first:
                low, high = ((x - first) / (last - first) * width for x in (begin, end))
                for i in range(max(0, int(low)), min(width, int(high) + 1)):
                    cells[i] = mark
                if name == "execute" and 0 <= int(low) < width:
                    cells[int(low)] = "│"
        lines.append(f"{name:>9} {''.join(cells)}")
    return "\n".join([*lines, f"{'':9} 0{(last - first) / 1000:>{width - 1}.1f} ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--join", type=Path)
    args = parser.parse_args()
    events = read(args.folder)
    if args.join:
        args.join.write_text(json.dumps(events))
    computing = spans(events, "execute")
    numbers = sorted(computing)
    numbers = numbers[len(numbers) // 10 : -len(numbers) // 10]
    steady = [computing[number] for number in numbers]
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(steady)]
    idle = sum(gaps) / (steady[-1][1] - steady[0][0])
    print(
        f"{len(numbers)} steps, {statistics.median(end - begin for begin, end in steady) / 1000:.2f} ms at the median; "
        f"the executor idles {statistics.median(gaps):.0f} µs between two "
        f"(p90 {statistics.quantiles(gaps, n=10)[-1]:.0f}), {idle:.1%} of the time"
    )
    for name in ("schedule", "commit", "send", "update"):
        found = spans(events, name)
        mine = [found[number] for number in numbers if number in found]
        length = sum(end - begin for begin, end in mine)
        hidden = sum(covered(span, steady) for span in mine) / max(length, 1e-9)
        print(f"{name:>9}: {length / max(1, len(mine)):6.0f} µs a step, {hidden:.1%} of it while the executor computes")
    sent = spans(events, "send")
    early = [
        sent[number][1] <= computing[number - 1][1] for number in numbers if number in sent and number - 1 in computing
    ]
    print(f"sent before the step before it was over: {sum(early) / max(1, len(early)):.1%} of the plans")
    middle = len(steady) // 2
    print(draw(events, steady[middle][0] - 200, steady[min(middle + args.steps, len(steady) - 1)][0], args.width))


if __name__ == "__main__":
    main()
