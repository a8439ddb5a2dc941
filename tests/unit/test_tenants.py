"""Tenants share what is computed, and the queue's bounds, by weight: the real scheduler in virtual time."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator.executor import StepTime
from simulator.job import Job
from simulator.outcome import Outcome
from simulator.simulation import Simulation

from quire.engine.api.errors import InvalidRequest, Overloaded
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.scheduling.queue import WaitingQueue
from quire.engine.scheduling.tenants.arrival_order import ArrivalOrder
from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.scheduling.tenants.token_shares import CONTEXT_TOKEN, GENERATED_TOKEN, TokenShares
from quire.engine.sequence import Sequence
from quire.engine.shared_bound import SharedBound
from quire.engine.validation import validate_options

MAX_BATCH_SIZE = 16
CONFIG = SchedulerConfig(max_waiting_requests=10**6, max_waiting_tokens=10**9)
_HANDLES = count()
TENANTS = st.sampled_from("abcd")


def tenant(name: str, weight: int = 1, priority: int = 0) -> RequestOptions:
    return RequestOptions(priority, tenant=name, tenant_weight=weight)


def flood(
    options: RequestOptions, lengths: tuple[int, int] = (40, 40), num_jobs: int = 400, seed: int = 0
) -> list[Job]:
    """Jobs that all come at once; prompts and outputs are as long as given, give or take a half."""
    draw = random.Random(seed)
    prompt, output = lengths
    found = []
    for _ in range(num_jobs):
        prompt_len = draw.randint(prompt // 2, prompt * 3 // 2)
        tokens = np.array([draw.randrange(1, 30_000) for _ in range(prompt_len)], np.int32)
        output_len = draw.randint(output // 2, output * 3 // 2)
        found.append(Job(0.0, tokens, output_len, output_len, options))
    return found


def run(jobs: list[Job], until_seconds: float = float("inf"), policy: str = "TOKEN_SHARES") -> Outcome:
    config = CONFIG.model_copy(update={"tenant_policy": policy})
    return Simulation(jobs, config, 10_000, StepTime(), MAX_BATCH_SIZE, until_us=until_seconds * 1e6).run()


def work(outcome: Outcome, name: str) -> int:
    return CONTEXT_TOKEN * outcome.context_of[name] + GENERATED_TOKEN * outcome.generated_of[name]


def new_sequence(options: RequestOptions, length: int = 1) -> Sequence:
    handle = next(_HANDLES)
    prompt, params = np.ones(length, np.int32), SamplingParams(seed=0, max_tokens=8)
    return Sequence(Request(str(handle), 0, handle, prompt, prompt[:0], params, options), ())


def new_queue(policy: TenantPolicy, max_requests: int = 10**6, max_tokens: int = 10**9) -> WaitingQueue:
    ticks = count()
    return WaitingQueue(max_requests, max_tokens, 10.0, lambda: float(next(ticks)), policy)


# ── shares ──


@pytest.mark.parametrize("weights", [(1, 3), (1, 1), (2, 5)])
def test_tenants_get_tokens_as_their_weights_are(weights: tuple[int, int]) -> None:
    jobs = flood(tenant("a", weights[0]), seed=1) + flood(tenant("b", weights[1]), seed=2)
    outcome = run(jobs, 6.0)
    tokens = {name: outcome.context_of[name] + outcome.generated_of[name] for name in "ab"}
    assert outcome.num_requests < 400, "one of them had nothing left to ask for"
    assert tokens["b"] / tokens["a"] == pytest.approx(weights[1] / weights[0], rel=0.05)


def test_work_is_shared_whatever_requests_are_like() -> None:
    """Long prompts with short answers beside short prompts with long answers."""
    outcome = run(flood(tenant("a"), (400, 10)) + flood(tenant("b"), (20, 80)), 10.0)
    assert outcome.num_requests < 400
    assert work(outcome, "a") == pytest.approx(work(outcome, "b"), rel=0.05)


@pytest.mark.parametrize("flooding", ["", "b"])
def test_few_requests_beside_a_flood_come_at_once(flooding: str) -> None:
    """A tenant far below its share waits for one place in the batch, whoever floods, and however long the queue is."""
    polite = [Job(3e5 * (index + 1), job.prompt, 20, 20, tenant("a")) for index, job in enumerate(flood(tenant("a")))]
    tokens: dict[str, list[int]] = {}
    for policy in ("TOKEN_SHARES", "ARRIVAL_ORDER"):
        outcome = run(flood(tenant(flooding), seed=1) + polite[:8], 4.0, policy)
        tokens[policy] = [outcome.generated_of["a"], outcome.generated_of[flooding]]
    assert tokens["TOKEN_SHARES"][0] == 8 * 20
    assert tokens["ARRIVAL_ORDER"][0] == 0
    assert sum(tokens["TOKEN_SHARES"]) == pytest.approx(sum(tokens["ARRIVAL_ORDER"]), rel=0.05)


def test_nothing_idles_while_somebody_waits() -> None:
    """Two tenants take no longer than one, also when one of them has nothing left, or has the least weight."""
    first, second = flood(tenant("a", 1), num_jobs=25), flood(tenant("b", 1000), num_jobs=175, seed=1)
    shared, alone = run(first + second), run(first + second, policy="ARRIVAL_ORDER")
    assert shared.num_requests == alone.num_requests == 200
    assert shared.duration_us == pytest.approx(alone.duration_us, rel=0.02)


def test_nobody_starves_beside_the_greatest_weight() -> None:
    outcome = run(flood(tenant("a", 1), num_jobs=20) + flood(tenant("b", 1000)), 5.0)
    assert outcome.generated_of["b"] > 100 * outcome.generated_of["a"] > 0


# ── order ──


class Turns:
    """A queue that is worked off: each start makes the tokens of an answer, one at a time."""

    def __init__(self, policy: TenantPolicy) -> None:
        self._policy = policy
        self.queue = new_queue(policy)
        self.work: Counter[str] = Counter()

    def start(self, num_generated: int) -> str:
        """Whose turn it was."""
        sequence = next(iter(self.queue))
        options = sequence.request.options
        self.queue.start(sequence)
        self._policy.generate([sequence] * num_generated)
        self.work[options.tenant] += CONTEXT_TOKEN * sequence.num_context + GENERATED_TOKEN * num_generated
        return options.tenant


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(TENANTS, st.integers(1, 9), min_size=2), st.randoms(use_true_random=False))
def test_work_of_waiting_tenants_never_differs_by_more_than_two_requests(
    weights: dict[str, int], draw: random.Random
) -> None:
    """The bound of Theorem 4.4 of the virtual token counter's authors, where one request runs at once."""
    turns, largest = Turns(TokenShares()), CONTEXT_TOKEN * 50 + GENERATED_TOKEN * 50
    for name, weight in weights.items():
        for _ in range(40):
            turns.queue.append(new_sequence(tenant(name, weight), draw.randint(1, 50)))
    for _ in range(40):
        turns.start(draw.randint(0, 50))
        shares = [turns.work[name] / weight for name, weight in weights.items()]
        assert max(shares) - min(shares) <= 2 * largest / min(weights.values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 30), st.integers(-3, 3)), max_size=40))
def test_a_tenants_own_order_holds(requests: list[tuple[str, int, int]]) -> None:
    """Each tenant's requests start as if they were alone, by priority, ageing and arrival."""
    sequences = [new_sequence(tenant(name, 1, priority), length) for name, length, priority in requests]
    mixed, alone = new_queue(TokenShares()), {name: new_queue(ArrivalOrder()) for name in "ab"}
    ticks = count()
    for queue in (mixed, *alone.values()):
        queue._clock = lambda: now  # type: ignore[method-assign]
    for sequence in sequences:
        now = float(next(ticks))
        mixed.append(sequence)
        alone[sequence.request.options.tenant].append(sequence)
    order = list(mixed)
    assert sorted(order, key=id) == sorted(sequences, key=id)
    for name, queue in alone.items():
        assert [sequence for sequence in order if sequence.request.options.tenant == name] == list(queue)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(-3, 3), st.booleans()), max_size=40), st.sampled_from(["", "a"])
)
def test_one_tenant_alone_has_the_order_of_before(requests: list[tuple[int, int, bool]], name: str) -> None:
    orders = []
    for policy in (TokenShares(), ArrivalOrder()):
        queue, sequences = new_queue(policy), []
        for length, priority, is_restored in requests:
            sequences.append(new_sequence(tenant(name, 1, priority), length))
            (queue.restore if is_restored else queue.append)(sequences[-1])
        orders.append([sequences.index(sequence) for sequence in queue])
    assert orders[0] == orders[1]


class _Untouched(list[Sequence]):
    def __iter__(self) -> Iterator[Sequence]:
        raise AssertionError("was looked at one by one")


def test_while_there_is_one_tenant_nothing_is_counted() -> None:
    turns, policy = Turns(policy := TokenShares()), policy
    for _ in range(3):
        turns.queue.append(new_sequence(tenant("")))
    policy.generate(_Untouched())
    while len(turns.queue):
        turns.start(0)
    policy.generate(_Untouched())
    turns.queue.append(new_sequence(tenant("a")))
    with pytest.raises(AssertionError, match="one by one"):
        policy.generate(_Untouched())


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    turns = Turns(TokenShares())
    for name in "ab" * 20:
        turns.queue.append(new_sequence(tenant(name), 10))
    for sequence in [each for each in turns.queue if each.request.options.tenant == "b"]:
        turns.queue.remove(sequence)
    for _ in range(10):
        turns.start(10)
    for _ in range(20):
        turns.queue.append(new_sequence(tenant("b"), 10))
    assert Counter(turns.start(10) for _ in range(10)) == {"a": 5, "b": 5}


def test_what_runs_counts_where_nobody_waits() -> None:
    """One that comes to an empty queue is not behind all that the other took before it came."""
    policy = TokenShares()
    turns = Turns(policy)
    turns.queue.append(new_sequence(tenant("new")))
    turns.queue.append(running := new_sequence(tenant("old")))
    turns.start(0), turns.start(0)
    policy.generate([running] * 1000)
    for name in ["late", "old"] * 10:
        turns.queue.append(new_sequence(tenant(name)))
    assert Counter(turns.start(10) for _ in range(10)) == {"late": 5, "old": 5}


def test_what_has_made_tokens_goes_before_all_tenants() -> None:
    queue = new_queue(TokenShares())
    queue.append(first := new_sequence(tenant("a")))
    queue.restore(accepted := new_sequence(tenant("b"), 50))
    queue.restore(second := new_sequence(tenant("b"), 50))
    second.tokens.append(1)
    queue.append(new := new_sequence(tenant("b")))
    order = list(queue)
    assert order.index(accepted) < order.index(new)
    queue.remove(accepted)
    assert next(iter(queue)) is second
    assert set(queue) == {first, second, new}


def test_lines_that_are_even_are_forgotten() -> None:
    policy = TokenShares()
    turns = Turns(policy)
    for index in range(2000):
        turns.queue.append(new_sequence(tenant(f"t{index}")))
        turns.start(0)
    assert len(policy._levels) < 1000


# ── bounds ──


def fill(bound: SharedBound, name: str, weight: int = 1) -> int:
    """How much the tenant can take now."""
    before = bound.held
    while bound.fits(name, weight):
        bound.add(name, weight)
    return bound.held - before


def test_without_tenants_a_bound_is_a_bound() -> None:
    bound = SharedBound(80)
    assert fill(bound, "") == 80
    assert bound.full_for() == [], "it is full for all"
    assert not bound.fits("a", 1000)


def test_a_flood_leaves_room_for_others() -> None:
    bound = SharedBound(80)
    assert fill(bound, "flood") == 60
    assert bound.full_for() == ["flood"]
    assert fill(bound, "polite") == 20, "below its share of 26"
    assert not bound.fits("third", 1)
    for _ in range(50):
        bound.remove("flood")
        fill(bound, "polite")
        assert bound.held <= 80
    assert bound.full_for() == ["polite"]


def test_shares_of_a_bound_are_by_weight() -> None:
    bound = SharedBound(80)
    bound.add("a", 1)
    bound.add("b", 2)
    assert (bound.share("a", 1), bound.share("b", 2), bound.share("c", 4)) == (20, 40, 40)
    bound.remove("a")
    assert bound.share("b", 3) == 60


@settings(deadline=None)
@given(st.lists(st.tuples(TENANTS, st.integers(1, 9), st.integers(1, 30), st.booleans())), st.integers(1, 100))
def test_a_bound_is_never_passed_and_never_refuses_the_first(
    changes: list[tuple[str, int, int, bool]], most: int
) -> None:
    bound, held = SharedBound(most), Counter[str]()
    for name, weight, amount, is_removal in changes:
        if is_removal:
            if held[name]:
                bound.remove(name, held.pop(name))
        elif bound.fits(name, weight, amount):
            bound.add(name, weight, amount)
            held[name] += amount
            assert bound.held <= most
        else:
            assert bound.held or amount > most
        assert bound.held == held.total()


def test_refusals_name_the_share() -> None:
    queue = new_queue(TokenShares(), max_requests=16)
    for _ in range(12):
        queue.append(new_sequence(tenant("flood")))
    with pytest.raises(Overloaded, match="12 requests wait, 12 of them of flood, whose share of 16 is 8"):
        queue.append(new_sequence(tenant("flood")))
    assert queue.full_lines == {"flood"}
    for _ in range(4):
        queue.append(new_sequence(tenant("polite")))
    with pytest.raises(Overloaded, match="16 requests wait, at most 16 may"):
        queue.append(new_sequence(tenant("polite")))


def test_tokens_are_shared_as_requests_are() -> None:
    queue = new_queue(TokenShares(), max_tokens=800)
    for _ in range(6):
        queue.append(new_sequence(tenant("flood"), 100))
    with pytest.raises(Overloaded, match="600 tokens wait, 600 of them of flood, whose share of 800 is 400"):
        queue.append(new_sequence(tenant("flood")))
    queue.append(new_sequence(tenant("polite"), 100))


@pytest.mark.parametrize(("name", "weight"), [("a b", 1), ("x" * 65, 1), ("a\n", 1), ("a", 0), ("a", 1001), ("a", 1.5)])
def test_tenants_have_bounds_themselves(name: str, weight: int) -> None:
    with pytest.raises(InvalidRequest, match="tenant"):
        validate_options(tenant(name, weight))
