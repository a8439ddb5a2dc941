"""The lease and epoch protocol as a model that a search can exhaust; docs/lease_protocol.md explains it.

Actions are named as in the code: those of the lease after lease.py and its scripts, `attach` and `run` after the
executor's servicer, `open`, `commit` and `seed` after the ledger, `hear` after the frontend's schedulers.py. A process
that is stopped and goes on needs no action: every process may rest between any two of its actions, as long as it likes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Actions = Iterator[tuple[str, "State"]]


class Guard(StrEnum):
    """What keeps the invariants; the model runs without any of them as well."""

    HELD_BEFORE_SEND = "a scheduler sends only while it holds the lease by its own clock"
    LEASE_MARGIN = "a lease ends for its holder before it ends in Redis"
    RELEASE_OWN = "a release leaves another's lease alone"
    EXECUTOR_EPOCH = "an executor refuses a lower epoch"
    EXECUTOR_LEADER = "an executor refuses another leader of the epoch that it obeys"
    ONE_STREAM = "an executor ends the stream before the one that attaches"
    LEDGER_EPOCH = "the ledger refuses a lower epoch"
    LEDGER_IDENTITY = "the ledger empties the pool of another incarnation"
    BOOKS_STEP = "books are dropped that end at a lower step than the executor has run"
    BOOKS_EPOCH = "books are dropped that were written in a lower epoch than the executor has run"
    FOLLOW_HIGHER = "a frontend follows a higher epoch only, as long as it follows one"
    FOLLOWED_ONLY = "a frontend takes tokens only from the scheduler that it follows"
    LEAVE_STREAM = "a frontend opens a stream again that it has left, before it follows it again"
    SUBMIT_AGAIN = "a frontend submits what is open to each scheduler that it follows"
    RESTORE = "a scheduler goes on elsewhere with what ran on a lost executor"


class Broken(StrEnum):
    """The invariants."""

    TWO_SENDERS = "a plan leaves while another scheduler holds the lease, and Redis has forgotten nothing"
    OLD_FOLLOWED = "a frontend leaves a leader for one of no higher epoch"
    OLD_PLAN_RUN = "an executor ran a plan of a term that is not the newest of those it has run"
    OLD_WRITE = "the ledger accepted a write of a term that is not the newest of those that had the pool"
    FALSE_BOOKS = "a scheduler believes books that lack what the executor has run"
    REQUEST_LOST = "a request is open that neither the followed scheduler has nor a message of it completes"
    TOKEN_TWICE = "a token came to the client that is not the next one"


class Fault(StrEnum):
    LEASE_ENDS = "the lease ends for"
    HAND_OVER = "SIGTERM to"
    SCHEDULER_DIES = "SIGKILL to scheduler"
    EXECUTOR_DIES = "SIGKILL to executor"
    EXECUTOR_STREAM = "the stream breaks to executor"
    FRONTEND_STREAM = "the frontend's stream breaks to"
    COMMIT_UNANSWERED = "no answer comes to a commit of"
    REDIS_EMPTIED = "Redis is emptied"
    REDIS_CLOCK = "Redis's clock is set forward"
    REDIS_SAVES = "Redis writes to its disk for the last time"
    REDIS_RESTORED = "Redis starts again from its disk"


ALL_FAULTS = frozenset(Fault)


class Term(NamedTuple):
    epoch: int
    leader: str


# Who wrote each step: books are true if they begin with those that the executor has run.
Books = tuple[Term, ...]


class Pool(NamedTuple):
    incarnation: int
    owner: Term
    books: Books


class Redis(NamedTuple):
    lease: Term | None
    epoch: int
    pools: tuple[Pool | None, ...]


class Executor(NamedTuple):
    incarnation: int = 1
    obeys: Term | None = None
    # The scheduler whose stream it reads.
    stream: int | None = None
    ran: Books = ()


class Phase(IntEnum):
    """How far a scheduler is with an executor, as it knows. REFUSED: its attach was."""

    DETACHED, ATTACHING, ATTACHED, SEEDING, OPEN, REFUSED = range(6)


class Plan(IntEnum):
    NONE, COMMITTED, SENT, RUN = range(4)


class Link(NamedTuple):
    """A scheduler's stream to an executor; `books` is the mirror, and before `open` what the executor says it ran."""

    phase: Phase = Phase.DETACHED
    incarnation: int = 0
    books: Books = ()
    plan: Plan = Plan.NONE


class Scheduler(NamedTuple):
    """`tokens`: of the request, those it knows; None: it has not got it. `place`: the executor that runs it."""

    starts: int
    links: tuple[Link, ...]
    above: int = 0
    term: Term | None = None
    holds: bool = False
    tokens: int | None = None
    place: int | None = None


class Message(NamedTuple):
    """From a scheduler to the frontend: its epoch as it leads, a token's position, or (None, None): the stream ends."""

    epoch: int | None = None
    token: int | None = None


_END = Message()


class Frontend(NamedTuple):
    """`epochs`: what each scheduler has said on its stream; `streams`: messages on the way; `got`: tokens received."""

    epochs: tuple[int, ...]
    streams: tuple[tuple[Message, ...], ...]
    follows: int | None = None
    got: int = 0
    has_submitted: bool = False
    # Streams of former leaders that are to be opened again.
    left: tuple[bool, ...] = (False, False)


class State(NamedTuple):
    redis: Redis
    schedulers: tuple[Scheduler, ...]
    executors: tuple[Executor, ...]
    frontend: Frontend
    num_faults: int = 0
    # What Redis has on disk, if it is to lose the rest.
    saved: Redis | None = None
    has_forgotten: bool = False
    broken: Broken | None = None


def put(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


@dataclass(frozen=True)
class LeaseModel:
    """Two schedulers, one frontend with one request, and some executors.

    Args:
        guards: those that stand.
        num_executors, num_tokens: executors, and tokens of the request.
        faults: for each fault in turn, of which kinds it may be. It comes at any time or never.
    """

    guards: frozenset[Guard] = frozenset(Guard)
    num_executors: int = 1
    num_tokens: int = 2
    faults: tuple[frozenset[Fault], ...] = (ALL_FAULTS,)

    def start(self) -> State:
        """The first scheduler has just been elected; that it is the first one changes nothing."""
        links = (Link(),) * self.num_executors
        first = Term(1, "A1")
        return State(
            Redis(first, 1, (None,) * self.num_executors),
            (Scheduler(1, links, term=first, holds=True), Scheduler(1, links)),
            (Executor(),) * self.num_executors,
            Frontend((0, 0), ((), ())),
        )

    def actions(self, state: State) -> Actions:
        for s, scheduler in enumerate(state.schedulers):
            yield from self._lease(state, s, scheduler)
            if scheduler.term is not None:
                for x in range(self.num_executors):
                    yield from self._drive(state, s, x, scheduler.term)
            if state.frontend.streams[s]:
                yield f"hear {'AB'[s]}", self._hear(state, s)
        yield from self._expire(state)
        if state.num_faults < len(self.faults):
            for fault, where, after in self._faults(state):
                if fault in self.faults[state.num_faults]:
                    yield f"{fault} {where}".strip(), after._replace(num_faults=state.num_faults + 1)

    def after(self, state: State, *names: str) -> State:
        """The state that these actions lead to, one after the other."""
        for name in names:
            state = dict(self.actions(state))[name]
        return state

    def wrong(self, state: State) -> str:
        if state.broken is not None:
            return state.broken
        return Broken.REQUEST_LOST if self._is_lost(state) else ""

    # The lease: lease.py and candidate.py.

    def _lease(self, state: State, s: int, scheduler: Scheduler) -> Actions:
        lease, epoch, _ = state.redis
        term, name = scheduler.term, "AB"[s]
        if term is None:
            if lease is None:
                taken = Term(max(epoch, scheduler.above) + 1, f"{name}{scheduler.starts}")
                leads = scheduler._replace(term=taken, holds=True)
                redis = state.redis._replace(lease=taken, epoch=taken.epoch)
                yield f"take {name} epoch {taken.epoch}", _with(state, s, leads)._replace(redis=redis)
        elif lease == term or (lease is None and epoch <= term.epoch):
            if lease is None or not scheduler.holds:
                redis = state.redis._replace(lease=term, epoch=max(epoch, term.epoch))
                yield f"renew {name}", _with(state, s, scheduler._replace(holds=True))._replace(redis=redis)
        else:
            yield f"renew {name}: lost", self._step_down(state, s, max(epoch, term.epoch))

    def _expire(self, state: State) -> Actions:
        """In Redis, once no process that lives counts on it."""
        lease = state.redis.lease
        holds = any(scheduler.term == lease and scheduler.holds for scheduler in state.schedulers)
        if lease is not None and not (holds and Guard.LEASE_MARGIN in self.guards):
            yield "the lease expires in Redis", state._replace(redis=state.redis._replace(lease=None))

    def _step_down(self, state: State, s: int, met: int) -> State:
        """Ends the term with all streams, and releases the lease."""
        scheduler, redis = state.schedulers[s], state.redis
        if redis.lease == scheduler.term or Guard.RELEASE_OWN not in self.guards:
            redis = redis._replace(lease=None, epoch=redis.epoch + 1)
        above = max(met, scheduler.above)
        return self._end(state._replace(redis=redis), s, Scheduler(scheduler.starts, scheduler.links, above))

    def _end(self, state: State, s: int, after: Scheduler) -> State:
        """The scheduler's streams end: those to executors at once, the frontend's behind what has been sent."""
        executors = tuple(each._replace(stream=None) if each.stream == s else each for each in state.executors)
        idle = after._replace(links=(Link(),) * self.num_executors)
        state = _with(state, s, idle)._replace(executors=executors)
        return state if state.frontend.streams[s][-1:] == (_END,) else _said(state, s, _END)

    # One executor: supervisor.py, executor_link.py and loop.py; the executor's servicer.py.

    def _drive(self, state: State, s: int, x: int, term: Term) -> Actions:
        scheduler, name = state.schedulers[s], f"{'AB'[s]} {'XY'[x]}"
        link = scheduler.links[x]
        may_send = scheduler.holds or Guard.HELD_BEFORE_SEND not in self.guards
        match link.phase:
            case Phase.DETACHED if may_send:
                yield f"attach {name}", _linked(state, s, x, Link(Phase.ATTACHING))
            case Phase.ATTACHING:
                yield f"{'XY'[x]} reads attach of {'AB'[s]}", self._attach(state, s, x, term)
            case Phase.ATTACHED:
                yield f"open {name}", self._open(state, s, x, term)
            case Phase.SEEDING:
                yield f"seed {name}", self._seed(state, s, x, term)
            case Phase.REFUSED:
                obeys = state.executors[x].obeys
                yield f"refused {name}", self._step_down(state, s, obeys.epoch if obeys else 0)
            case Phase.OPEN if link.plan is Plan.NONE:
                if self._has_work(scheduler, x):
                    yield f"commit {name}", self._commit(state, s, x, term)
            case Phase.OPEN if link.plan is Plan.COMMITTED and may_send:
                sent = _linked(state, s, x, link._replace(plan=Plan.SENT))
                another = any(other.holds for other in state.schedulers if other is not scheduler)
                is_wrong = another and not state.has_forgotten
                yield f"send {name}", sent._replace(broken=Broken.TWO_SENDERS) if is_wrong else sent
        if link.incarnation:
            yield from self._stream(state, s, x, link)
        if link.plan is Plan.RUN:
            yield f"result {name}", self._result(state, s, x)

    def _stream(self, state: State, s: int, x: int, link: Link) -> Actions:
        """What becomes of a stream that was attached. A scheduler hears late that it has ended."""
        executor, name = state.executors[x], f"{'AB'[s]} {'XY'[x]}"
        is_there = executor.incarnation == link.incarnation
        stands = is_there and (executor.stream == s or Guard.ONE_STREAM not in self.guards)
        if link.plan is Plan.SENT and stands:
            yield f"run {name}", self._run(state, s, x)
        if not stands and is_there and executor.stream is not None and executor.obeys is not None:
            yield f"displaced {name}", self._step_down(state, s, executor.obeys.epoch)
        elif not stands:
            yield f"lost {name}", self._lose(state, s, x)

    def _has_work(self, scheduler: Scheduler, x: int) -> bool:
        is_here = scheduler.place in (None, x)
        return is_here and scheduler.tokens is not None and scheduler.tokens < self.num_tokens

    def _attach(self, state: State, s: int, x: int, term: Term) -> State:
        executor = state.executors[x]
        obeys = executor.obeys
        if obeys is not None:
            is_over = term.epoch < obeys.epoch and Guard.EXECUTOR_EPOCH in self.guards
            is_anothers = term.epoch == obeys.epoch and term.leader != obeys.leader
            if is_over or (is_anothers and Guard.EXECUTOR_LEADER in self.guards):
                return _linked(state, s, x, Link(Phase.REFUSED))
        state = state._replace(executors=put(state.executors, x, executor._replace(obeys=term, stream=s)))
        return _linked(state, s, x, Link(Phase.ATTACHED, executor.incarnation, executor.ran))

    def _run(self, state: State, s: int, x: int) -> State:
        executor, link = state.executors[x], state.schedulers[s].links[x]
        if executor.ran and _is_old(link.books[-1], executor.ran[-1]):
            state = state._replace(broken=Broken.OLD_PLAN_RUN)
        state = state._replace(executors=put(state.executors, x, executor._replace(ran=link.books)))
        return _linked(state, s, x, link._replace(plan=Plan.RUN))

    def _result(self, state: State, s: int, x: int) -> State:
        scheduler = state.schedulers[s]
        link = scheduler.links[x]
        state = _linked(state, s, x, link._replace(plan=Plan.NONE))
        if scheduler.place != x:
            return state  # of a request that has been cancelled
        after = state.schedulers[s]._replace(tokens=scheduler.tokens + 1)
        return _with(_said(state, s, Message(token=scheduler.tokens)), s, after)

    def _lose(self, state: State, s: int, x: int) -> State:
        state = _linked(state, s, x, Link())
        scheduler = state.schedulers[s]
        if scheduler.place != x:
            return state
        tokens = scheduler.tokens if Guard.RESTORE in self.guards else None
        return _with(state, s, scheduler._replace(tokens=tokens, place=None))

    # The ledger: open.lua, commit.lua and seed.lua; `_open` of the supervisor, `_commit` of the loop.

    def _open(self, state: State, s: int, x: int, term: Term) -> State:
        pool, link = state.redis.pools[x], state.schedulers[s].links[x]
        if self._is_stale(pool, term):
            return self._step_down(state, s, pool.owner.epoch if pool else 0)
        is_ours = pool is not None and pool.incarnation == link.incarnation
        books = pool.books if pool and (is_ours or Guard.LEDGER_IDENTITY not in self.guards) else ()
        state = self._write(state, x, Pool(link.incarnation, term, books))
        if not self._is_believed(books, link.books):
            return _linked(state, s, x, link._replace(phase=Phase.SEEDING))
        if books[: len(link.books)] != link.books or (pool and books and not is_ours):
            state = state._replace(broken=Broken.FALSE_BOOKS)
        return self._opened(_linked(state, s, x, link._replace(phase=Phase.OPEN, books=books)), s)

    def _is_believed(self, books: Books, ran: Books) -> bool:
        if len(books) < len(ran) and Guard.BOOKS_STEP in self.guards:
            return False
        written, run = (each[-1].epoch if each else 0 for each in (books, ran))
        return written >= run or Guard.BOOKS_EPOCH not in self.guards

    def _opened(self, state: State, s: int) -> State:
        """Says so to the frontend, if this is the first executor."""
        scheduler = state.schedulers[s]
        if scheduler.term and [link.phase for link in scheduler.links].count(Phase.OPEN) == 1:
            return _said(state, s, Message(epoch=scheduler.term.epoch))
        return state

    def _commit(self, state: State, s: int, x: int, term: Term) -> State:
        pool, scheduler = state.redis.pools[x], state.schedulers[s]
        if self._is_stale(pool, term):
            return self._step_down(state, s, pool.owner.epoch if pool else 0)
        link = scheduler.links[x]
        planned = link._replace(books=(*link.books, term), plan=Plan.COMMITTED)
        is_lost = pool is None or (pool.incarnation, pool.owner.epoch) != (link.incarnation, term.epoch)
        if is_lost:
            planned = planned._replace(phase=Phase.SEEDING)
        else:
            state = self._write(state, x, Pool(link.incarnation, term, planned.books))
        return _linked(_with(state, s, scheduler._replace(place=x)), s, x, planned)

    def _seed(self, state: State, s: int, x: int, term: Term) -> State:
        pool, link = state.redis.pools[x], state.schedulers[s].links[x]
        if self._is_stale(pool, term):
            return self._step_down(state, s, pool.owner.epoch if pool else 0)
        state = self._write(state, x, Pool(link.incarnation, term, link.books))
        state = _linked(state, s, x, link._replace(phase=Phase.OPEN))
        return state if link.plan is Plan.COMMITTED else self._opened(state, s)

    def _is_stale(self, pool: Pool | None, term: Term) -> bool:
        return pool is not None and pool.owner.epoch > term.epoch and Guard.LEDGER_EPOCH in self.guards

    @staticmethod
    def _write(state: State, x: int, pool: Pool) -> State:
        before = state.redis.pools[x]
        if before is not None and (
            pool.owner.epoch < before.owner.epoch
            or (before.incarnation == pool.incarnation and _is_old(pool.owner, before.owner))
        ):
            state = state._replace(broken=Broken.OLD_WRITE)
        return state._replace(redis=state.redis._replace(pools=put(state.redis.pools, x, pool)))

    # The frontend: schedulers.py and scheduler_link.py.

    def _hear(self, state: State, s: int) -> State:
        frontend = state.frontend
        message, *rest = frontend.streams[s]
        state = state._replace(frontend=frontend._replace(streams=put(frontend.streams, s, tuple(rest))))
        if message.token is not None and (frontend.follows == s or Guard.FOLLOWED_ONLY not in self.guards):
            return self._receive(state, message.token)
        if frontend.left[s]:
            return self._reopen(state, s)
        if message == _END:
            return self._on_end(state, s)
        if message.epoch is None:
            return state
        followed = 0 if frontend.follows is None else frontend.epochs[frontend.follows]
        epochs = put(frontend.epochs, s, message.epoch)
        state = state._replace(frontend=state.frontend._replace(epochs=epochs))
        if frontend.follows == s or (message.epoch <= followed and Guard.FOLLOW_HIGHER in self.guards):
            return state
        return self._follow(state if message.epoch > followed else state._replace(broken=Broken.OLD_FOLLOWED), s)

    def _receive(self, state: State, token: int) -> State:
        """What comes for a request that is over is dropped."""
        got = state.frontend.got
        if got == self.num_tokens:
            return state
        state = state._replace(frontend=state.frontend._replace(got=got + 1))
        return state if token == got else state._replace(broken=Broken.TOKEN_TWICE)

    def _on_end(self, state: State, s: int) -> State:
        frontend = state.frontend._replace(epochs=put(state.frontend.epochs, s, 0))
        state = state._replace(frontend=frontend)
        if frontend.follows != s:
            return state
        other = 1 - s
        if frontend.epochs[other]:
            return self._follow(state, other)
        return state._replace(frontend=frontend._replace(follows=None))

    def _follow(self, state: State, s: int) -> State:
        """Leaves the scheduler before, and submits the request with every token received."""
        frontend = state.frontend
        former = frontend.follows
        # One whose stream has just ended has no epoch.
        if former is not None and frontend.epochs[former] and Guard.LEAVE_STREAM in self.guards:
            epochs, left = put(frontend.epochs, former, 0), put(frontend.left, former, True)
            frontend = frontend._replace(epochs=epochs, left=left)
        state = state._replace(frontend=frontend._replace(follows=s))
        frontend, scheduler = state.frontend, state.schedulers[s]
        is_due = frontend.got < self.num_tokens and (Guard.SUBMIT_AGAIN in self.guards or not frontend.has_submitted)
        # A stream that has ended at the scheduler takes nothing; a handle that is open there stays what it was.
        if is_due and _END not in frontend.streams[s] and scheduler.tokens is None:
            state = _with(state, s, scheduler._replace(tokens=frontend.got))
        return state._replace(frontend=frontend._replace(has_submitted=True))

    def _reopen(self, state: State, s: int) -> State:
        """What is on the stream is gone, the scheduler forgets what came on it, and says again that it leads."""
        scheduler = state.schedulers[s]
        frontend = state.frontend
        epochs, streams = put(frontend.epochs, s, 0), put(frontend.streams, s, ())
        left = put(frontend.left, s, False)
        state = state._replace(frontend=frontend._replace(epochs=epochs, streams=streams, left=left))
        state = _with(state, s, scheduler._replace(tokens=None, place=None))
        if scheduler.term is not None and any(link.phase is Phase.OPEN for link in scheduler.links):
            return _said(state, s, Message(epoch=scheduler.term.epoch))
        return state

    def _is_lost(self, state: State) -> bool:
        """Whether the request waits for a scheduler that does not have it, on a stream on which nothing more comes."""
        frontend = state.frontend
        if frontend.follows is None or frontend.got == self.num_tokens:
            return False
        on_the_way = frontend.streams[frontend.follows]
        tokens = state.schedulers[frontend.follows].tokens
        return tokens is None and not on_the_way

    # Faults.

    def _faults(self, state: State) -> Iterator[tuple[Fault, str, State]]:
        for s, scheduler in enumerate(state.schedulers):
            name = "AB"[s]
            if scheduler.holds:
                yield Fault.LEASE_ENDS, name, _with(state, s, scheduler._replace(holds=False))
            if scheduler.term is not None:
                yield Fault.HAND_OVER, name, self._step_down(state, s, scheduler.term.epoch)
                yield Fault.SCHEDULER_DIES, name, self._end(state, s, Scheduler(scheduler.starts + 1, ()))
            if state.frontend.epochs[s]:
                yield Fault.FRONTEND_STREAM, name, self._on_end(self._reopen(state, s), s)
            for x, link in enumerate(scheduler.links):
                is_idle = link.phase is Phase.OPEN and link.plan is Plan.NONE
                if scheduler.term is not None and is_idle and self._has_work(scheduler, x):
                    after = self._commit(state, s, x, scheduler.term)
                    if (sure := after.schedulers[s].links[x]).plan is Plan.COMMITTED:
                        yield Fault.COMMIT_UNANSWERED, name, _linked(after, s, x, sure._replace(phase=Phase.SEEDING))
        for x, executor in enumerate(state.executors):
            restarted, left = Executor(executor.incarnation + 1), executor._replace(stream=None)
            yield Fault.EXECUTOR_DIES, "XY"[x], state._replace(executors=put(state.executors, x, restarted))
            if executor.stream is not None:
                yield Fault.EXECUTOR_STREAM, "XY"[x], state._replace(executors=put(state.executors, x, left))
        yield from self._redis_faults(state)

    def _redis_faults(self, state: State) -> Iterator[tuple[Fault, str, State]]:
        redis, after = state.redis, state._replace(has_forgotten=True, saved=None)
        yield Fault.REDIS_EMPTIED, "", after._replace(redis=Redis(None, 0, (None,) * self.num_executors))
        if redis.lease is not None:
            yield Fault.REDIS_CLOCK, "", after._replace(redis=redis._replace(lease=None))
        if state.saved is None:
            yield Fault.REDIS_SAVES, "", state._replace(saved=redis)
        else:
            yield Fault.REDIS_RESTORED, "", after._replace(redis=state.saved)


def _is_old(term: Term, newest: Term) -> bool:
    """Whether it is of a lower epoch, or another leader's of the same one."""
    return term.epoch < newest.epoch or (term.epoch == newest.epoch and term.leader != newest.leader)


def _with(state: State, s: int, scheduler: Scheduler) -> State:
    return state._replace(schedulers=put(state.schedulers, s, scheduler))


def _linked(state: State, s: int, x: int, link: Link) -> State:
    scheduler = state.schedulers[s]
    return _with(state, s, scheduler._replace(links=put(scheduler.links, x, link)))


def _said(state: State, s: int, message: Message) -> State:
    streams = state.frontend.streams
    return state._replace(frontend=state.frontend._replace(streams=put(streams, s, (*streams[s], message))))
