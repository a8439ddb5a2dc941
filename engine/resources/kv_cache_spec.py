"""What each layer keeps of a token, and how layers are put together into groups. Knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from quire.engine.api.kv_cache_group import KVCacheGroup, blocks_for

# Each group has a block table of its own in every sequence, and its own names of blocks.
MAX_GROUPS: Final = 8


class CacheKind(Enum):
    """What a layer keeps."""

    FULL = auto()
    """Keys and values of all positions."""
    SLIDING = auto()
    """Keys and values of a window."""
    LATENT = auto()
    """One compressed vector of all positions, for all heads."""


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """What one layer keeps.

    Attributes:
        kind: see there.
        numbers_per_token: keys, values or a latent vector, all numbers of one token.
        window: tokens that a query sees, itself included; of sliding layers only.
    """

    kind: CacheKind
    numbers_per_token: int
    window: int | None = None

    def __post_init__(self) -> None:
        if (self.kind is CacheKind.SLIDING) != (self.window is not None) or (self.window or 1) < 1:
            raise ValueError(f"{self.kind.name}: sliding layers have a window of at least 1, got {self.window}")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that share one block table.

    Attributes:
        spec: of each of them.
        layers: their indices, ascending; layer layers[i] is the i-th of a block.
    """

    spec: KVCacheSpec
    layers: tuple[int, ...]

    @property
    def cache(self) -> KVCacheGroup:
        """All that the scheduler knows of it."""
        return KVCacheGroup(self.spec.window)


def group_layers(specs: Sequence[KVCacheSpec], block_size: int, max_model_len: int) -> tuple[LayerGroup, ...]:
    """Layers of one spec, in groups of at most one size, so that a block of any group takes the same memory.

        layers   S S S S S F S S S S S F        F: full, S: sliding
        groups   F F | S S | S S | S S | S S | S S

    A group with fewer layers wastes a part of its blocks. Of all sizes that make at most `MAX_GROUPS` groups, or as few
    as there are specs, the one is taken with which a sequence of `max_model_len` tokens takes least; of equals, the
    largest. Groups that see everything come first.

    Raises:
        ValueError: layers differ in how much they keep of a token.
    """
    if len({spec.numbers_per_token for spec in specs}) > 1:
        sizes = sorted({spec.numbers_per_token for spec in specs})
        raise ValueError(f"layers must keep equally much of each token, got {sizes}")
    by_spec: dict[KVCacheSpec, list[int]] = {}
    for layer, spec in enumerate(specs):
        by_spec.setdefault(spec, []).append(layer)
    kinds = sorted(by_spec.items(), key=lambda item: item[0].window is not None)

    def split(size: int) -> tuple[LayerGroup, ...]:
        return tuple(
            LayerGroup(spec, tuple(layers[first : first + size]))
            for spec, layers in kinds
            for first in range(0, len(layers), size)
        )

    def cost(groups: tuple[LayerGroup, ...]) -> tuple[int, int]:
        size = max(len(group.layers) for group in groups)
        return size * blocks_for([group.cache for group in groups], max_model_len, block_size), len(groups)

    candidates = [split(size) for size in range(1, len(specs) + 1)]
    return min((each for each in candidates if len(each) <= max(MAX_GROUPS, len(kinds))), key=cost)


def layers_per_block(groups: Sequence[LayerGroup]) -> int:
    """Layers whose tokens one block keeps: those of the largest group."""
    return max(len(group.layers) for group in groups)
