"""The `Decoder`: from logits to tokens."""

from torch import Tensor

from quire.engine.model.batch import Batch
from quire.kernels.suite import KernelSuite


class Decoder:
    """Chooses the next token of every row that samples. Has no state: what a draw depends on is in the batch."""

    def __init__(self, kernels: KernelSuite) -> None:
        self._kernels = kernels

    def decode(self, logits: Tensor, batch: Batch) -> Tensor:
        """Token ids, int64 [num_sampling], of float32 logits [num_sampling, vocab_size]; on their device.

        Logits of penalised rows are overwritten.
        """
        if batch.penalties is not None:
            self._kernels.penalize(logits, batch.penalties)
        return self._kernels.sample(logits, batch.sampling)
