"""The lease and epoch protocol searched exhaustively, with every guard and without each; docs/lease_protocol.md."""

import pytest

from support.lease_model import ALL_FAULTS, Broken, Fault, Guard, LeaseModel, State
from support.state_search import Found, search

ALL_GUARDS = frozenset(Guard)
ANY = (ALL_FAULTS,)


def these(*faults: Fault) -> tuple[frozenset[Fault], ...]:
    """These faults in this order."""
    return tuple(frozenset({fault}) for fault in faults)


RESTORED = these(Fault.REDIS_SAVES, Fault.REDIS_RESTORED, Fault.SCHEDULER_DIES)
_TO_X = "attach A X", "X reads attach of A", "open A X", "hear A"
_TO_B = "the lease ends for A", "the lease expires in Redis", "take B epoch 2", "attach B X", "X reads attach of B"
# The second scheduler leads, and the executor has run its plan; the first one has not noticed.
DEPOSED = (*_TO_X, *_TO_B, "open B X", "hear B", "commit B X", "send B X", "run B X")
# The frontend has left the first scheduler, on whose stream a token is on its way.
LEFT = (*_TO_X, "commit A X", "send A X", "run A X", "result A X", *_TO_B, "open B X", "hear B")
# An attach is on its way while the other scheduler has led in an epoch given out twice, and then in a higher one.
LATE = (
    *("attach A X", "Redis is emptied", "take B epoch 1", "attach B X", "X reads attach of B", "open B X"),
    *("SIGTERM to B", "take B epoch 3"),
)


def look(model: LeaseModel, *prefix: str, max_states: int = 100_000) -> Found[State]:
    found = search(model.after(model.start(), *prefix), model.actions, model.wrong, max_states)
    print(found)
    return found


@pytest.mark.parametrize(
    ("executors", "tokens", "faults", "prefix"),
    [
        pytest.param(1, 2, ANY, (), id="any fault"),
        pytest.param(2, 1, (), (), id="two executors"),
        pytest.param(1, 1, ANY * 2, DEPOSED, id="another fault while a zombie is about"),
    ],
)
def test_no_invariant_is_broken(
    executors: int, tokens: int, faults: tuple[frozenset[Fault], ...], prefix: tuple[str, ...]
) -> None:
    found = look(LeaseModel(ALL_GUARDS, executors, tokens, faults), *prefix)
    assert not found.wrong, found
    assert found.num_states > 50


@pytest.mark.long
@pytest.mark.parametrize(
    ("executors", "faults", "prefix"),
    [(1, ANY * 2, ()), (2, ANY, ()), (1, ANY * 3, DEPOSED)],
    ids=["two faults", "two executors", "two faults while a zombie is about"],
)
def test_no_invariant_is_broken_further_on(
    executors: int, faults: tuple[frozenset[Fault], ...], prefix: tuple[str, ...]
) -> None:
    found = look(LeaseModel(ALL_GUARDS, executors, 1, faults), *prefix, max_states=2_000_000)
    assert not found.wrong, found


@pytest.mark.parametrize(
    ("guard", "broken", "tokens", "faults", "prefix"),
    [
        (Guard.HELD_BEFORE_SEND, Broken.TWO_SENDERS, 1, ANY, ()),
        (Guard.LEASE_MARGIN, Broken.TWO_SENDERS, 1, ANY, ()),
        (Guard.RELEASE_OWN, Broken.TWO_SENDERS, 1, ANY, ()),
        (Guard.EXECUTOR_EPOCH, Broken.OLD_WRITE, 1, these(Fault.REDIS_EMPTIED, Fault.HAND_OVER), LATE),
        (Guard.EXECUTOR_LEADER, Broken.OLD_WRITE, 1, ANY, ()),
        (Guard.ONE_STREAM, Broken.OLD_PLAN_RUN, 1, ANY, ()),
        (Guard.LEDGER_EPOCH, Broken.OLD_WRITE, 1, ANY, ()),
        (Guard.LEDGER_IDENTITY, Broken.FALSE_BOOKS, 1, ANY, ()),
        (Guard.BOOKS_STEP, Broken.FALSE_BOOKS, 2, RESTORED, ()),
        (Guard.BOOKS_EPOCH, Broken.FALSE_BOOKS, 1, these(Fault.LEASE_ENDS, Fault.REDIS_EMPTIED), DEPOSED),
        (Guard.FOLLOW_HIGHER, Broken.OLD_FOLLOWED, 1, these(Fault.LEASE_ENDS), ()),
        (Guard.FOLLOWED_ONLY, Broken.TOKEN_TWICE, 2, these(Fault.LEASE_ENDS), ()),
        (Guard.LEAVE_STREAM, Broken.TOKEN_TWICE, 2, these(Fault.LEASE_ENDS, Fault.SCHEDULER_DIES), LEFT),
        (Guard.SUBMIT_AGAIN, Broken.REQUEST_LOST, 1, ANY, ()),
        (Guard.RESTORE, Broken.REQUEST_LOST, 1, ANY, ()),
    ],
    ids=lambda value: value.name if isinstance(value, Guard) else "",
)
def test_every_guard_is_needed(
    guard: Guard, broken: Broken, tokens: int, faults: tuple[frozenset[Fault], ...], prefix: tuple[str, ...]
) -> None:
    """The same faults do no harm with the guard; of any one fault `test_no_invariant_is_broken` shows it."""
    assert look(LeaseModel(ALL_GUARDS - {guard}, 1, tokens, faults), *prefix).wrong == broken
    assert faults == ANY or not look(LeaseModel(ALL_GUARDS, 1, tokens, faults), *prefix).wrong


def test_a_counterexample_is_a_shortest_trace() -> None:
    def count(state: int) -> list[tuple[str, int]]:
        return [(f"add {number}", state + number) for number in (1, 3)] if state < 10 else []

    found = search(0, count, lambda state: "seven" if state == 7 else "", 100)
    assert str(found) == "broken after 3 actions: seven\n  1 add 1\n  2 add 3\n  3 add 3"
    assert str(search(0, count, lambda state: "", 100)) == "13 states within 5 actions, no invariant is broken"
    with pytest.raises(MemoryError, match="at most 3 are allowed"):
        search(0, count, lambda state: "", 3)
