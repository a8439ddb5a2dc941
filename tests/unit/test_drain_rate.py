"""The pace at which a queue is worked off."""

import pytest

from quire.engine.api.errors import Overloaded
from quire.engine.drain_rate import MAX_SECONDS, MIN_SECONDS, DrainRate
from quire.services.common.targets import Targets
from quire.services.frontend.scheduler_link import SchedulerLink


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_departures_while_somebody_waits() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    assert rate.seconds_for(1000) == MIN_SECONDS
    for _ in range(3):
        clock.now += 3600
        rate.begin()
        # Four together every two seconds.
        for _ in range(10):
            clock.now += 2
            for _ in range(4):
                rate.depart()
    assert 0.4 < rate.seconds_for(1000) / 1000 < 0.6
    assert (rate.seconds_for(0), rate.seconds_for(10**6)) == (MIN_SECONDS, MAX_SECONDS)


def test_the_pace_follows_a_change() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    for seconds, num in ((0.01, 1000), (1.0, 300)):
        for _ in range(num):
            clock.now += seconds
            rate.depart()
    assert 95 < rate.seconds_for(100) <= 100


def test_a_full_frontend_says_when_its_calls_will_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    link = SchedulerLink(Targets("nowhere:1"), "frontend", 0, "")
    monkeypatch.setattr(DrainRate, "seconds_for", lambda self, count: 36.0)
    with pytest.raises(Overloaded) as caught:
        link.check_room()
    assert caught.value.retry_after == 36.0
