"""The embedding of a prompt."""

from dataclasses import dataclass

from quire.engine.api.completion import Usage


@dataclass(frozen=True, slots=True)
class Embedding:
    """The hidden states of a prompt as one vector.

    Attributes:
        values: as many as the model's hidden size.
        usage: what it took; nothing was generated.
        request_id: the request's name, also where the server chose it.
    """

    values: tuple[float, ...]
    usage: Usage
    request_id: str
