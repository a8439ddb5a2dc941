"""Which of the attached executors take requests: a spare is loaded and idle until another one is missing."""

from collections.abc import Collection

from quire.services.scheduler.attached_executor import AttachedExecutor


class Spares:
    """Counts how many executors that are no spares there should be: the most that were attached, less those that left
    in order.
    """

    def __init__(self) -> None:
        self._num_wanted = 0

    def attached(self, executors: Collection[AttachedExecutor]) -> None:
        """One has come; these are attached now."""
        self._num_wanted = max(self._num_wanted, sum(not each.info.is_spare for each in executors))

    def left(self, executor: AttachedExecutor) -> None:
        """One has gone; if it had been draining, nobody expects it back."""
        if executor.is_draining and not executor.info.is_spare:
            self._num_wanted -= 1

    def serving(self, executors: Collection[AttachedExecutor]) -> list[AttachedExecutor]:
        """Those of the attached that take requests: a spare for each one that is missing, and one if no other does."""
        takers = [each for each in executors if not each.is_draining]
        others = [each for each in takers if not each.info.is_spare]
        spares = [each for each in takers if each.info.is_spare]
        num_missing = max(self._num_wanted - len(others), int(not others))
        return others + spares[:num_missing]
