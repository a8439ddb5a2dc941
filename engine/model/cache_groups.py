"""Cache groups of a model: which layers share a block table, and where each layer's part of a block is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from quire.engine.api.kv_cache_group import KVCacheGroup
from quire.engine.layers.attention import AttentionShape
from quire.engine.resources.kv_cache_spec import CacheKind, KVCacheSpec, LayerGroup, group_layers


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where a layer's keys and values are.

    Attributes:
        group: whose blocks it reads.
        kv_shape: of a block of its cache.
        index: among the layers of this shape that a block has.
    """

    group: int
    kv_shape: tuple[int, ...]
    index: int


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a model's layers share the pool.

    Attributes:
        groups: in the order of their block tables.
        places: of each layer.
    """

    groups: tuple[KVCacheGroup, ...]
    places: tuple[LayerPlace, ...]

    @property
    def layers(self) -> dict[tuple[int, ...], int]:
        """Layers that a block keeps, by the shape of their part."""
        found: Counter[tuple[int, ...]] = Counter()
        for place in self.places:
            found[place.kv_shape] = max(found[place.kv_shape], place.index + 1)
        return dict(found)

    @property
    def kv_numbers(self) -> int:
        """Numbers that a block keeps in all, of `block_size` tokens."""
        return sum(count * prod(shape) for shape, count in self.layers.items())

    @property
    def windows(self) -> tuple[int, ...]:
        """Of the groups, 0 for none; () if one group sees everything."""
        windows = tuple(group.window or 0 for group in self.groups)
        return () if windows == (0,) else windows


def cache_layout(shapes: Sequence[AttentionShape], block_size: int, max_model_len: int) -> CacheLayout:
    """The layout of layers with these shapes of attention.

    Layers whose parts of a block differ in shape are one group, which keeps everything: blocks of all groups are of one
    size.
    """
    kv_shapes = [shape.kv_shape(block_size) for shape in shapes]
    if len(set(kv_shapes)) > 1:
        whole = KVCacheSpec(CacheKind.FULL, 0)
        groups: tuple[LayerGroup, ...] = (LayerGroup(whole, tuple(range(len(shapes)))),)
    else:
        groups = group_layers([_spec(shape) for shape in shapes], block_size, max_model_len)
    places: dict[int, LayerPlace] = {}
    for number, group in enumerate(groups):
        counts: Counter[tuple[int, ...]] = Counter()
        for layer in group.layers:
            kv_shape = kv_shapes[layer]
            places[layer] = LayerPlace(number, kv_shape, counts[kv_shape])
            counts[kv_shape] += 1
    return CacheLayout(tuple(group.cache for group in groups), tuple(places[layer] for layer in range(len(shapes))))


def _spec(shape: AttentionShape) -> KVCacheSpec:
    whole = CacheKind.FULL if shape.value_dim is None else CacheKind.LATENT
    kind = whole if shape.window is None else CacheKind.SLIDING
    return KVCacheSpec(kind, prod(shape.kv_shape(1)), shape.window)
