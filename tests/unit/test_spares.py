"""A spare executor takes requests only while another one is missing."""

from types import SimpleNamespace
from typing import Any

from quire.services.scheduler.spares import Spares


def executor(is_spare: bool = False) -> Any:
    return SimpleNamespace(info=SimpleNamespace(is_spare=is_spare), is_draining=False)


def test_a_spare_is_idle_while_all_others_are_there() -> None:
    spares, first, second, spare = Spares(), executor(), executor(), executor(is_spare=True)
    spares.attached([first, second, spare])
    assert spares.serving([first, second, spare]) == [first, second]


def test_it_takes_the_place_of_one_that_is_lost_until_that_is_back() -> None:
    spares, first, second = Spares(), executor(), executor()
    idle = [executor(is_spare=True), executor(is_spare=True)]
    spares.attached([first, second, *idle])
    spares.left(second)
    assert spares.serving([first, *idle]) == [first, idle[0]]
    again = executor()
    spares.attached([first, *idle, again])
    assert spares.serving([first, *idle, again]) == [first, again]


def test_it_serves_while_one_drains_and_not_for_one_that_has_left_in_order() -> None:
    spares, first, second, spare = Spares(), executor(), executor(), executor(is_spare=True)
    spares.attached([first, second, spare])
    second.is_draining = True
    assert spares.serving([first, second, spare]) == [first, spare]
    spares.left(second)
    assert spares.serving([first, spare]) == [first]


def test_without_any_other_it_serves() -> None:
    """As when a scheduler begins to lead and an executor has just been lost."""
    spares, spare = Spares(), executor(is_spare=True)
    spares.attached([spare])
    assert spares.serving([spare]) == [spare]
    assert spares.serving([]) == []
