"""What a sampler is told about the rows of logits."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SamplingRows:
    """Parameters of the rows that draw; every other row of the logits is greedy.

    Which rows draw and which filter is known on the host, so that a batch pays only for what it uses and the
    device is never asked. All tensors are on the logits' device.

    Attributes:
        drawn: int64 [num_drawn]: rows of the logits that draw.
        temperature: float32 [num_drawn], above 0.
        filtered: int64 [num_filtered]: those of the drawn rows, as indices into `drawn`, that filter.
        top_k: int64 [num_filtered]; 0 keeps all.
        top_p: float32 [num_filtered], in (0, 1]; 1 keeps all.
        min_p: float32 [num_filtered], in [0, 1]; 0 keeps all.
        seed: int64 [num_drawn], the bits of the unsigned seed.
        position: int64 [num_drawn]: how many tokens the sequence has before the one to be drawn.
    """

    drawn: Tensor
    temperature: Tensor
    filtered: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    position: Tensor
