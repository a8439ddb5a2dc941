"""The `Decoder`: from logits to tokens."""

from torch import Tensor

from quire.engine.model.batch import Batch
from quire.engine.model.features.logprobs import RowLogprobs
from quire.kernels.suite import KernelSuite


class Decoder:
    """Chooses the next token of every row that samples. Has no state: what a draw depends on is in the batch."""

    def __init__(self, kernels: KernelSuite) -> None:
        self._kernels = kernels

    def decode(self, logits: Tensor, batch: Batch) -> tuple[Tensor, RowLogprobs | None]:
        """Token ids, int64 [num_sampling], of float32 logits [num_sampling, vocab_size]; on their device.

        Processed logits are overwritten. Log-probabilities, where they are wanted, are of those before.
        """
        raw = logits.clone() if batch.processors and batch.logprobs is not None else logits
        for processor, rows in batch.processors:
            processor.process(logits, rows)
        token_ids = self._kernels.sample(logits, batch.sampling)
        wanted = batch.logprobs
        if wanted is None:
            return token_ids, None
        values, top_ids = self._kernels.logprobs(raw, token_ids, wanted.rows, int(wanted.num_top.max()))
        return token_ids, RowLogprobs(wanted, values, top_ids)
