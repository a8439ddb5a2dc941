"""The load generator's interface to every kind of server."""

from dataclasses import dataclass
from typing import Protocol

from quire.clients.bench.record import Record
from quire.clients.bench.workload.session import Prompt

# For the first question. One that listens and says nothing must not cost the time of a whole request.
INFO_SECONDS = 30.0


@dataclass(slots=True)
class Exchange:
    """One request's bytes as they came, each with its time."""

    sent: float
    ended: float
    parts: list[tuple[float, bytes]]
    error: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The model that is served; None for values that the server does not report."""

    model: str
    vocab_size: int | None
    max_model_len: int | None


class Target(Protocol):
    """A server at the other end of a connection."""

    async def info(self) -> ServerInfo:
        """Asks for the model; raises `QuireError` without an answer, or with an unexpected one."""

    def encode(self, prompt: Prompt, output_tokens: int) -> bytes:
        """The request for exactly `output_tokens` tokens, unless end tokens count."""

    async def send(self, payload: bytes) -> Exchange:
        """Sends a request and keeps what comes; never raises for what the server does."""

    def digest(self, exchange: Exchange) -> Record:
        """Reads what came."""

    async def close(self) -> None:
        """Disconnects."""
