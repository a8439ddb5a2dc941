"""Outcome of one request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """Times are seconds of `time.perf_counter`.

    Attributes:
        sent, ended: when it was sent and when its end came.
        late: seconds by which it was sent after it was due.
        arrivals: when each message with tokens came; a server may put several tokens into one.
        output_tokens, prompt_tokens, cached_tokens: as the server counted them.
        error: its kind, such as "UNAVAILABLE" or "HTTP 429"; None if it succeeded.
        detail: the error's message.
        token_ids: the answer, where the API gives it.
    """

    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None
    detail: str = ""
    token_ids: tuple[int, ...] = ()
    late: float = 0.0

    @property
    def ttft(self) -> float:
        """Time to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; None for a single token."""
        return (self.arrivals[-1] - self.arrivals[0]) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def e2e(self) -> float:
        """From sending to the end."""
        return self.ended - self.sent

    @property
    def gaps(self) -> tuple[float, ...]:
        """Between one message with tokens and the next: what a reader waits."""
        return tuple(after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False))
