"""What is served in a simulation."""

from dataclasses import dataclass

from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One request, and how long it will become, which the scheduler does not know.

    Attributes:
        arrival_us: microseconds from the start.
        prompt: token ids, shape (num_prompt,).
        output_len: the token at which it ends by itself, at least 1.
        max_tokens: what the client allows, at least `output_len`.
        options: priority and tenant, for example.
    """

    arrival_us: float
    prompt: Int32Array
    output_len: int
    max_tokens: int
    options: RequestOptions = DEFAULT_OPTIONS

    def __post_init__(self) -> None:
        if not 1 <= self.output_len <= self.max_tokens:
            raise ValueError(f"output_len must be from 1 to max_tokens={self.max_tokens}, got {self.output_len}")
