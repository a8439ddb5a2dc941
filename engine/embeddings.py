"""Vectors of prompts, packed as they travel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class PackedEmbeddings:
    """Vectors of one length.

    Attributes:
        owners: int32 [n]: whose vector it is, such as a slot.
        values: float32 [n * size].
    """

    owners: Int32Array
    values: NDArray[np.float32]

    def unpack(self) -> list[tuple[int, NDArray[np.float32]]]:
        """One entry per vector, float32 [size], with its owner."""
        vectors = self.values.reshape(len(self.owners), -1)
        return list(zip(self.owners.tolist(), vectors, strict=True))


def pack_embeddings(entries: Sequence[tuple[int, NDArray[np.float32]]]) -> PackedEmbeddings:
    """Inverse of `PackedEmbeddings.unpack`; at least one."""
    owners, vectors = zip(*entries, strict=True)
    return PackedEmbeddings(np.array(owners, np.int32), np.concatenate(vectors).astype(np.float32))
