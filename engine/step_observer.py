"""Who is told what becomes of steps: the one seam for timelines, metrics and pages."""

from quire.engine.api.errors import LedgerError
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.step import StepPlan, StepResult


class StepObserver:
    """Told by the loop that plans steps, and by the one that has them computed; does nothing with it.

    Times are `time.monotonic_ns`, which is the machine's. Every method is on the path of every step: it has a
    microsecond, and raises nothing.
    """

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        """A plan has left.

        Args:
            began, scheduled: its scheduling.
            committed: then the ledger had what it changes; equal to `scheduled` if that is nothing.
            sent: then it had been handed over.
        """

    def updated(self, result: StepResult, num_tokens: int, began: int, received: int, updated: int) -> None:
        """A result has been taken in.

        Args:
            num_tokens: that sequences were given; rows of sequences that had ended are dropped.
            began, received: how long it was waited for.
            updated: then its tokens had been delivered.
        """

    def committed(self, transaction: LedgerTransaction) -> None:
        """The ledger has a transaction, by itself or by being seeded."""

    def refused(self, error: LedgerError) -> None:
        """The ledger has refused or lost a transaction, and is about to be seeded from the mirror."""

    def seeded(self, seconds: float) -> None:
        """The ledger has the mirror's content, so long behind `refused`."""

    def computed(self, plan: StepPlan, result: StepResult, began: int, ended: int) -> None:
        """A plan's result is there.

        Args:
            began, ended: its launch; without a device, it was computed in this time.
        """
