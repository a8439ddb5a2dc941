"""Faults at random in services under load, and the table of what they did; `python -m chaos --help`."""

import argparse
import asyncio
import logging
import tempfile
from pathlib import Path

from chaos.kinds import KINDS
from chaos.report import late, table
from chaos.run import Setup, run
from chaos.storm import Row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", type=int, default=150, help="faults, or several at once, until all starts anew")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--blocks", type=int, default=Setup.num_blocks, help="of each executor's KV cache")
    parser.add_argument("--logs", type=Path, help="folder for the services' logs; default: they are thrown away")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    kinds = [kind for kind in KINDS if args.only in kind.name]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="quire-chaos-") as temporary:
        seed = args.seed
        while (left := args.faults - sum(row.num_faults for row in rows.values())) > 0:
            folder = (args.logs or Path(temporary)) / str(seed)
            folder.mkdir(parents=True)
            storm = asyncio.run(run(Setup(seed, args.blocks), kinds, min(left, args.round), folder))
            rows = {name: rows.get(name, Row()) + storm.rows.get(name, Row()) for name in rows | storm.rows}
            seed += 1
            print("\n".join(table(rows)), flush=True)
    total = sum(rows.values(), Row())
    for message in (*total.messages, *total.audit, *total.crashes, *late(rows, kinds)):
        print(message)
    return int(bool(total.num_lost or total.num_different or total.audit))


if __name__ == "__main__":
    raise SystemExit(main())
