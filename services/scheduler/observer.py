"""Who is told what goes on in a scheduler: the one seam for timelines, metrics, traces and pages."""

from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.sequence import Sequence
from quire.engine.step_observer import StepObserver
from quire.services.scheduler.event import Event


class SchedulerObserver:
    """Told of each request's life and of what happens to the services around; does nothing with it.

    An accepted request begins, may start several times, and ends once. All on the event loop; nothing is raised.
    """

    def refuse(self, request: Request, error: RequestError) -> None:
        """It was not accepted."""

    def begin(self, sequence: Sequence) -> None:
        """It waits now."""

    def start(self, sequence: Sequence) -> None:
        """Its context is computed and its next token there: the first one, or the first behind a pause or a fault."""

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        """It is over; None: its client has cancelled it or gone."""

    def notice(self, event: Event) -> None:
        """Something has happened to a service."""

    def steps(self, executor: str) -> StepObserver | None:
        """Who is told of the steps of this executor, which is attached now; None: nobody."""
        return None
