"""A pool's blocks as a few lines of characters."""

from typing import Final

import numpy as np
from rich.text import Text

from quire.engine.arrays import Int32Array
from quire.protos.block_map import BlockKind, kinds_of, split_state

# Characters differ, so that nothing depends on colours.
FREE, CACHED, HELD = "·", "▒", "█"
_COLOURS: Final = ("blue", "green", "magenta", "cyan", "yellow", "red", "bright_blue", "bright_green", "bright_magenta")


def block_bar(states: Int32Array, width: int, max_lines: int = 3) -> Text:
    """A character for each block, or for several of which it shows what most are; held ones in colours by owner."""
    if not len(states):
        return Text("no blocks", style="dim")
    bar = Text()
    for at, cell in enumerate(np.array_split(states, min(len(states), width * max_lines))):
        if at and at % width == 0:
            bar.append("\n")
        bar.append(*_character(cell))
    return bar


def _character(cell: Int32Array) -> tuple[str, str]:
    kinds = kinds_of(cell)
    is_held = kinds >= BlockKind.HELD
    numbers = (int(is_held.sum()), int((kinds == BlockKind.CACHED).sum()), int((kinds == BlockKind.FREE).sum()))
    if numbers[0] == max(numbers):
        owner, _ = split_state(int(cell[is_held][0]))
        return HELD, _COLOURS[owner % len(_COLOURS)]
    return (CACHED, "") if numbers[1] == max(numbers) else (FREE, "dim")
