"""The `AdaptedModel`: a decoder whose tokens have the adapters that graphs read of a step."""

from collections.abc import Sequence

from torch import Tensor

from quire.engine.layers.decoder import Block, DecoderModel, Stream
from quire.engine.layers.embedding import Embedding
from quire.kernels.adapters import AdapterRows


class AdaptedModel:
    """Implements `GraphModel`.

    Args:
        rows: of the model.
        places: int32 [max_tokens], on the device: where adapters lie, of the tokens of whichever step is computed.
    """

    def __init__(self, model: DecoderModel, rows: AdapterRows, places: Tensor) -> None:
        self._model, self._rows, self._places = model, rows, places

    @property
    def embedding(self) -> Embedding:
        return self._model.embedding

    @property
    def blocks(self) -> Sequence[Block]:
        return self._model.blocks

    def hidden(self, input_ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        self._rows.plan(self._places[: len(input_ids)], rows)
        return self._model.hidden(input_ids, positions, rows)

    def first(self, input_ids: Tensor, positions: Tensor) -> Stream:
        self._rows.plan(self._places[: len(input_ids)])
        return self._model.first(input_ids, positions)

    def last(self, x: Tensor, residual: Tensor | None, positions: Tensor, rows: Tensor | None) -> Tensor:
        self._rows.plan(self._places[: len(x)], rows)
        return self._model.last(x, residual, positions, rows)
