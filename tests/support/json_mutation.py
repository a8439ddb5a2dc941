"""JSON with one thing wrong in it, or a few, drawn from a seed."""

import random
from copy import deepcopy
from typing import Any, Final

_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -1.5, 1e308, float("nan"), float("inf"), "", "a", "\ud800",
    "ä" * 300, [], [[]], {}, {"type": []}, {"a": {"b": None}}, [None], ["a", 1], [{"type": "function"}],
)  # fmt: skip
_KEYS: Final = ("type", "name", "text", "content", "role", "output", "id", "b")


def mutated_json(given: Any, dice: random.Random) -> Any:
    """A copy with one to three changes."""
    found = deepcopy(given)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        found = _mutated(found, dice)
    return found


def _mutated(value: Any, dice: random.Random) -> Any:
    if not (isinstance(value, (dict, list)) and value) or dice.random() < 0.05:
        return deepcopy(dice.choice(_VALUES))
    key = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    match dice.randrange(10):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[dice.choice(_KEYS)] = value.pop(key)
        case 1:
            value.append(deepcopy(value[key]))
        case 2 if isinstance(value, dict):
            value[dice.choice(_KEYS)] = deepcopy(dice.choice(_VALUES))
        case _:
            value[key] = _mutated(value[key], dice)
    return value
