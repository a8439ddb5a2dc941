"""A frontend's own figures on its live page: open streams, and how long first tokens took as clients see it."""

import time
from collections import deque
from statistics import median
from typing import Any, Final

from quire.engine.open_request import OpenRequest
from quire.services.frontend.inference import Inference
from quire.services.frontend.observer import FrontendObserver

WINDOW_SECONDS: Final = 10.0
MAX_SAMPLES: Final = 1024


class FirstTokens(FrontendObserver):
    """Times from the arrival of requests to their first tokens, of the last seconds."""

    def __init__(self) -> None:
        self._arrived: dict[OpenRequest, float] = {}
        self._samples: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)

    def begin(self, request: OpenRequest, arrived: float) -> None:
        self._arrived[request] = arrived

    def start(self, request: OpenRequest, queue_seconds: float) -> None:
        if (arrived := self._arrived.pop(request, None)) is not None:
            now = time.monotonic()
            self._samples.append((now, now - arrived))

    def end(self, request: OpenRequest) -> None:
        self._arrived.pop(request, None)

    @property
    def median_ms(self) -> float | None:
        """None: no first token came of late."""
        begin = time.monotonic() - WINDOW_SECONDS
        recent = [seconds for at, seconds in self._samples if at >= begin]
        return 1000 * median(recent) if recent else None


def own_figures(inference: Inference, first_tokens: FirstTokens) -> dict[str, Any]:
    """As JSON takes them."""
    return {
        "model": inference.model,
        "streams": inference.num_requests,
        "reason": inference.not_serving_reason,
        "first_token_ms": first_tokens.median_ms,
    }
