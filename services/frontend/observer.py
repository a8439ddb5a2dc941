"""Who is told what goes on in a frontend: the one seam for metrics and traces."""

from collections.abc import Collection

from quire.engine.api.errors import RequestError
from quire.engine.open_request import OpenRequest


class FrontendObserver:
    """Told of each request's life; does nothing with it. All on the event loop; nothing is raised.

    A request begins and ends once. Steps of a beam search are no requests; the search itself is one that never starts.
    """

    def refuse(self, error: RequestError) -> None:
        """A call, or a request of a call of many, is answered with this error."""

    def begin(self, request: OpenRequest, arrived: float) -> None:
        """It is submitted now; it arrived then, in seconds of `time.monotonic`."""

    def start(self, request: OpenRequest, queue_seconds: float) -> None:
        """Its first token is there, or the first behind a fault, before which it waited so long at the scheduler."""

    def tell(self, requests: Collection[OpenRequest], now: float) -> None:
        """These are told of new tokens; requests that are answered in one piece are not among them."""

    def step(self, num_tokens: int) -> None:
        """A message from the scheduler brought so many tokens."""

    def end(self, request: OpenRequest) -> None:
        """Its `outcome` stands; None: its client has gone."""

    def recover(self, seconds: float) -> None:
        """What was open has been submitted again, so long behind the loss of a scheduler."""
