"""The `AdapterPlaces` of an executor: which adapters lie beside the model's weights, and where."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from quire.engine.adapters.peft_folder import PeftFolder, read_peft_folder
from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.layers.linear import Linear
from quire.engine.weights.stored_tensors import first
from quire.kernels.adapters import NO_PLACE, AdapterRows

logger = logging.getLogger(__name__)

FIELD: Final = "adapter"


class AdapterPlaces:
    """A fixed number of places. Safe to use from several threads.

    Whoever has an adapter loaded says into which place; no sequence that runs may have the one that lies there.

    Args:
        linears: the layers of the model that take adapters.
        rows: which tokens have which adapter; None: the executor takes none.
        max_rank: of an adapter's matrices.
    """

    def __init__(self, linears: Sequence[Linear], rows: AdapterRows | None, max_rank: int) -> None:
        self._linears = {f"{linear.name}.{part}": linear for linear in linears for part in linear.parts}
        self._num_places = 0 if rows is None else rows.num_places
        self._max_rank = max_rank
        self._lock = threading.Lock()
        self._digests: list[str] = [""] * self._num_places

    @property
    def num_places(self) -> int:
        """Adapters that may be there at once; 0: the executor takes none."""
        return self._num_places

    def place(self, digest: str) -> int:
        """Where an adapter lies, by the digest of its files; `NO_PLACE` for none.

        Raises:
            InvalidRequest: it is not there.
        """
        if not digest:
            return NO_PLACE
        with self._lock:
            if digest in self._digests:
                return self._digests.index(digest)
        raise InvalidRequest("starts.adapter", digest, "must be the digest of an adapter that was loaded")

    def examine(self, name: str, path: str) -> Adapter:
        """An adapter that could be loaded.

        Raises:
            InvalidRequest: it cannot; the message says why.
        """
        return Adapter(name, path, self._read(name, path).digest)

    def load(self, adapter: Adapter, place: int) -> None:
        """Puts an adapter in a place.

        Raises:
            InvalidRequest: it cannot be loaded; the message says why. The place is empty then.
        """
        if not 0 <= place < self._num_places:
            raise InvalidRequest("place", place, f"must be 0 to {self._num_places - 1}")
        with self._lock:
            if self._digests[place] == adapter.digest:
                return
            # A scheduler that leads now knows nothing of the places of the one before: its own is the only one.
            self._digests = ["" if digest == adapter.digest else digest for digest in self._digests]
            self._digests[place] = ""
        folder = self._read(adapter.name, adapter.path)
        if folder.digest != adapter.digest:
            limit = f"must be as it was when it was loaded: the files of {adapter.path} have changed"
            raise InvalidRequest(FIELD, adapter.name, limit)
        try:
            matrices = folder.matrices()
        except StartupError as error:
            raise InvalidRequest(FIELD, adapter.name, f"must be readable: {adapter.path}: {error}") from error
        for linear in dict.fromkeys(self._linears.values()):
            names = {part: f"{linear.name}.{part}" for part in linear.parts}
            linear.adapt(place, {part: matrices[name] for part, name in names.items() if name in matrices})
        with self._lock:
            self._digests[place] = adapter.digest
        logger.info("adapter %s, %d matrices, is in place %d", adapter.name, 2 * len(matrices), place)

    def _read(self, name: str, path: str) -> PeftFolder:
        if not self._num_places:
            raise InvalidRequest(FIELD, name, "must be left out: this executor takes none (max_adapters is 0)")
        try:
            folder = read_peft_folder(Path(path))
            self._check(folder)
        except (StartupError, ValueError) as error:  # a path may hold a zero byte
            raise InvalidRequest(FIELD, name, f"must be a PEFT folder for this model: {path}: {error}") from error
        return folder

    def _check(self, folder: PeftFolder) -> None:
        """Raises `StartupError` if it is an adapter for another model."""
        if not self._linears:
            raise StartupError("this model has no linear layers that take adapters, as transformers computes it")
        shapes = folder.shapes
        if other := shapes.keys() - self._linears.keys():
            raise StartupError(
                f"has matrices for {first(other)}, which is no linear layer of this model that takes an adapter; there "
                f"are layers such as {first(self._linears, 2)}"
            )
        for module, (down, up) in shapes.items():
            linear = self._linears[module]
            rows = linear.parts[module.removeprefix(f"{linear.name}.")]
            wanted = (down[0], linear.size), (rows, down[0])
            if (down, up) != wanted:
                raise StartupError(f"{module} has matrices of {down} and {up}, must be of {wanted[0]} and {wanted[1]}")
        rank, module = max((down[0], module) for module, (down, _) in shapes.items())
        if rank > self._max_rank:
            raise StartupError(f"{module} has rank {rank}, must be at most {self._max_rank} (max_adapter_rank)")
